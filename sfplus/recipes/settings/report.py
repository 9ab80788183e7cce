"""The key `report`: the title of the report and the published figures in it."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sfplus.artifacts.stage import Deferred, Stage
from sfplus.datasets.pairs.dataset_name import dataset_name
from sfplus.recipes.settings.identify import SET, IdentifySettings
from sfplus.recipes.settings.verify import VerifySettings, verified_models
from sfplus.recipes.steps import InputReference, PlanRequest, StageKey, Step, StepOutput

DRAWN = "drawn faces"


class PublishedSettings(BaseModel):
    """A published figure, which the report shows beside ours and marks as published."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="the model")
    accuracy: float | None = Field(None, gt=1, le=100, description="accuracy in per cent")
    inception_score: float | None = Field(None, ge=1, description="Inception score of a generator")
    source: str = Field(description="where it is published")
    dataset: str | None = Field(
        None, description="the data set of the pairs: the figure is shown only for its pairs (LFW: those of pairs.txt)"
    )

    @model_validator(mode="after")
    def _check_one_metric(self) -> PublishedSettings:
        if (self.accuracy is None) is (self.inception_score is None):
            raise ValueError("a published figure is an accuracy or an inception_score")
        return self

    @property
    def figure(self) -> tuple[str, float]:
        """The name of the metric and its value; an accuracy is a fraction."""
        if self.accuracy is not None:
            return "accuracy", self.accuracy / 100
        return "inception_score", self.inception_score or 0.0


class ReportSettings(StageKey, BaseModel):
    """Settings of the report."""

    model_config = ConfigDict(extra="forbid")
    stage: ClassVar[Stage] = Stage("report", 3, Deferred("sfplus.stages.report:build"))

    title: str = Field("", description="heading of the page; empty: the data set")
    published: list[PublishedSettings] = Field([], description="published figures of the same model and data")

    def plan(self, request: PlanRequest) -> list[Step]:
        """Report the models that the recipe verifies, or identifies with."""
        verify, identify = request.find(VerifySettings), request.find(IdentifySettings)
        sets = identify.photo_folders if identify else {}
        photo_folder: InputReference
        if verify:
            drawn = not (verify.pairs or verify.photos)
            dataset = dataset_name(verify.pairs, verify.photos) if verify.pairs else DRAWN
            photo_folder, name, has_crops = verify.photo_folder, "verify", verify.has_crops
        elif identify:
            drawn, dataset = False, identify.photos.resolve().name
            photo_folder, name, has_crops = sets.pop(SET), SET, identify.crops
        else:
            return []
        inputs: dict[str, InputReference] = {"photos": photo_folder}
        inputs |= {f"photos/{key}": photos for key, photos in sets.items()}
        if not has_crops:
            inputs |= {"crops": StepOutput(f"align/{name}"), "faces": StepOutput(f"detect/{name}")}
        for name, model in verified_models(request).items():
            for key in ("verify",) * bool(verify) + ("identify",) * bool(identify):
                inputs[f"{key}/{name}"] = StepOutput(f"{key}/{name}")
            inputs[f"model/{name}"] = model
        about = {"recipe": request.text, "command": request.command, "drawn": drawn, "dataset": dataset}
        settings = ReportStageSettings.model_validate(self.model_dump() | about)
        return [Step("report", self.stage, settings, inputs)]


class ReportStageSettings(ReportSettings):
    """Settings of the report stage: those of the key, and those that the plan sets."""

    recipe: str = Field("", description="the YAML of the recipe")
    command: str = Field("", description="the command that runs it")
    drawn: bool = Field(False, description="whether the faces are drawn")
    dataset: str = Field("", description="the data set that the pairs belong to")
