"""The key `finetune`: SphereFace+ fine-tuning from a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from sfplus.artifacts.stage import Deferred, Stage
from sfplus.recipes.settings.train import EnergySettings, People, SolverSettings, TrainSettings, training_inputs
from sfplus.recipes.steps import PlanRequest, StageKey, Step, StepOutput, UserModel


class FinetuneSettings(StageKey, SolverSettings):
    """Settings of SphereFace+: the loss of the head and the energy of the classifier, from a trained model."""

    stage: ClassVar[Stage] = Stage(
        "finetune", 1, Deferred("sfplus.stages.train:build_finetune"), trains=True, measures=True
    )

    energy: EnergySettings = Field(
        default=EnergySettings(), description="minimum hyperspherical energy of the classifier (MHE paper, section 5.2)"
    )
    exclude: People = Field(default=(), description="people to leave out; empty: those that train leaves out")
    model: str | None = Field(
        default=None, exclude=True, description="the model to start from; not needed where the recipe trains one"
    )
    photos: Path | None = Field(
        default=None,
        exclude=True,
        description="a folder per person, or a pack of crops; not needed where the key train gives it",
    )

    def plan(self, request: PlanRequest) -> list[Step]:
        """Fine-tune the trained or the given model on the crops that train uses, or on crops of its own photos."""
        train = request.find(TrainSettings)
        settings = self
        if train and not self.exclude:
            settings = self.model_copy(update={"exclude": train.exclude})
        before, inputs = training_inputs(train.photos if train else self.photos, self, request)
        inputs["start"] = UserModel(self.model) if self.model else StepOutput("train")
        return [*before, Step("finetune", self.stage, settings, inputs)]
