"""The key `finetune`: SphereFace+ fine-tuning from a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from sfplus.artifacts.stage import Deferred, Stage
from sfplus.recipes.settings.energy import AnyEnergySettings, EnergySettings
from sfplus.recipes.settings.own_code import ImportPath
from sfplus.recipes.settings.train import People, SolverSettings, TrainSettings, training_inputs
from sfplus.recipes.steps import InputReference, PlanRequest, StageKey, Step, StepOutput, UserCode, UserModel

CONTROL = "control"
"""The step that fine-tunes without energy."""


class FinetuneSettings(StageKey, SolverSettings):
    """Settings of SphereFace+: the loss of the head and the energy of the classifier, from a trained model."""

    stage: ClassVar[Stage] = Stage(
        "finetune", 1, Deferred("sfplus.stages.train:build_finetune"), trains=True, measures=True
    )

    energy: AnyEnergySettings = Field(
        default=EnergySettings(), description="minimum hyperspherical energy of the classifier (MHE paper, section 5.2)"
    )
    control: bool = Field(
        default=False,
        exclude=True,
        description="also fine-tune without energy, all else equal: the difference to this control is the effect of "
        "the energy, that to the model before fine-tuning is not",
    )
    exclude: People = Field(default=(), description="people to leave out; empty: those that train leaves out")
    model: str | None = Field(
        default=None, exclude=True, description="the model to start from; not needed where the recipe trains one"
    )
    network: ImportPath | None = Field(
        default=None,
        exclude=True,
        description="the network of this model if it is code of yours: package.module:function; not needed where the "
        "recipe trains the model",
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
        if train:
            settings = self.model_copy(update={"exclude": self.exclude or train.exclude, "people": train.people})
        before, inputs = training_inputs("finetune", train.photos if train else self.photos, self, request)
        start = UserModel(self.model, self.network or "", key="finetune.network") if self.model else None
        inputs["start"] = start or StepOutput("train")
        inputs |= self.network_code(request)
        steps = [*before, Step("finetune", self.stage, settings, inputs)]
        if self._has_control:
            energy = settings.energy.model_copy(update={"weight": 0.0})
            control = settings.model_copy(update={"energy": energy})
            steps.insert(-1, Step(CONTROL, self.stage, control, inputs))
        return steps

    def network_code(self, request: PlanRequest) -> dict[str, InputReference]:
        """Return the code of the network of the model to start from."""
        if self.model:
            return {"network": UserCode(self.network)} if self.network else {}
        train = request.find(TrainSettings)
        return train.network_code(request) if train else {}

    def model_steps(self, name: str) -> list[str]:
        """Return the steps of the control, if there is one, and of the fine-tuning itself."""
        return [CONTROL, name] if self._has_control else [name]

    @property
    def _has_control(self) -> bool:
        return self.control and self.energy.weight > 0
