"""The key `identify`: identification among people and distractors."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sfplus.artifacts.stage import Deferred, Stage
from sfplus.datasets.records import PeopleRule
from sfplus.recipes.settings.align import crop_steps
from sfplus.recipes.settings.verify import embed_step, verified_models
from sfplus.recipes.steps import InputReference, PlanRequest, StageKey, Step, StepOutput, UserPhotos

SET = "identify"


class IdentifySettings(StageKey, BaseModel):
    """Settings of the identification of people among each other and distractors, as `sfplus identify` measures it."""

    model_config = ConfigDict(extra="forbid")
    stage: ClassVar[Stage] = Stage("identify", 1, Deferred("sfplus.stages.identify:build"), measures=True)

    photos: Path = Field(exclude=True, description="the photos to identify: a folder with a folder per person")
    distractors: tuple[Path, ...] = Field(
        (), exclude=True, description="folders of photos of other people, which are added to the gallery"
    )
    ranks: tuple[int, ...] = Field((1, 5, 10), description="each k of the rank-k rates; 1 is always among them")
    enrol: int = Field(1, ge=1, description="photos of each person in the gallery, the first ones, averaged")
    people: PeopleRule = Field("path", description="the person of a photo in nested folders, as train.people")
    crops: bool = Field(
        False, exclude=True, description="whether all photos are crops that are aligned already; nothing is detected"
    )

    @field_validator("ranks")
    @classmethod
    def _normalise_ranks(cls, ranks: tuple[int, ...]) -> tuple[int, ...]:
        if any(rank < 1 for rank in ranks):
            raise ValueError("a rank is at least 1")
        return tuple(sorted({1, *ranks}))

    @model_validator(mode="after")
    def _check_folders(self) -> IdentifySettings:
        folders = [self.photos, *self.distractors]
        if twice := next((path for i, path in enumerate(folders) if path in folders[:i]), None):
            raise ValueError(f"{twice} is given twice: name each folder once")
        return self

    @property
    def photo_folders(self) -> dict[str, UserPhotos]:
        """The photos and the distractors, by the names of their steps."""
        sets = {SET: UserPhotos(self.photos, people=self.people, least=self.enrol + 1)}
        return sets | {f"distractors-{i}": UserPhotos(path) for i, path in enumerate(self.distractors, 1)}

    def plan(self, request: PlanRequest) -> list[Step]:
        """Embed the crops of each folder by each model of the recipe, and identify by each."""
        steps: list[Step] = []
        crops: dict[str, InputReference] = dict(self.photo_folders)
        if not self.crops:
            for name, photos in self.photo_folders.items():
                steps += crop_steps(photos, request, name)
            crops = {name: StepOutput(f"align/{name}") for name in crops}
        for model in verified_models(request):
            inputs: dict[str, InputReference] = {}
            for name, reference in crops.items():
                step = embed_step(request, model, reference, f"embed/{name}/{model}")
                steps.append(step)
                inputs[f"features/{name}"] = StepOutput(step.name)
                if isinstance(reference, StepOutput):
                    inputs[f"crops/{name}"] = reference  # which lists the photos without a face
            steps.append(Step(f"identify/{model}", self.stage, self, inputs))
        return steps
