"""The key `teacher` of `train` and `finetune`: knowledge distillation from a trained model. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from sfplus.alignment.templates import find_template
from sfplus.artifacts.stage import Deferred, Stage
from sfplus.errors import UsageError
from sfplus.networks.preprocessing import PRESETS, parse_preprocessing
from sfplus.recipes.settings.align import AlignSettings, AlignStageSettings
from sfplus.recipes.settings.engine import StrictSettings
from sfplus.recipes.steps import InputReference, PlanRequest, Step, StepOutput, UserModel


class TeachSettings(StrictSettings):
    """Settings of the stage that computes the features of a teacher."""

    stage: ClassVar[Stage] = Stage(
        "teach", 1, Deferred("sfplus.stages.teach:build"), Deferred("sfplus.stages.teach:share")
    )

    mirror: bool = Field(
        default=True,
        description="compute the features of mirror images too; the mean direction of both is learned",
    )


class TeacherSettings(TeachSettings):
    """Settings of knowledge distillation: the teacher, and how its features are learned."""

    model: str = Field(
        min_length=1,
        exclude=True,
        description="the teacher: a folder, file, function, name of the zoo or hf:owner/name, as embed.model",
    )
    network: str = Field(
        default="",
        exclude=True,
        description="network of a file of weights: package.module:function, a .prototxt, or a SphereFace network",
    )
    input: str = Field(
        default="",
        exclude=True,
        description="input of a teacher that does not describe it: a preset such as insightface, or key=value,...; its "
        "template may differ from that of the student, the photos are then aligned for both",
    )
    licence: str = Field(
        default="", description="licence of the teacher, for config.json and the model card; empty: that in its config"
    )
    cosine: float = Field(
        default=1.0,
        ge=0,
        description="weight of 1 - cos between feature and teacher, through a linear map if their sizes differ",
    )
    relational: float = Field(
        default=0.0,
        ge=0,
        description="weight of the squared difference between pairwise cosines of the batch and those of the teacher",
    )
    classify: bool = Field(
        default=True,
        description="keep the loss of the head; false: only the teacher is learned, from photos in any folders",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_name(cls, value: Any) -> Any:
        """Accept the name of the model alone."""
        if not isinstance(value, str | Mapping | TeacherSettings):
            raise ValueError("give the name of a model, or keys such as model, input and cosine")
        return {"model": value} if isinstance(value, str) else value

    @field_validator("input")
    @classmethod
    def _check_input(cls, value: str) -> str:
        try:
            _described_template(value)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if not (self.cosine or self.relational):
            raise ValueError("cosine and relational are both 0: give one of them a weight")
        return self

    def plan_steps(self, name: str, aligned: Step | None, crops: InputReference, request: PlanRequest) -> list[Step]:
        """Return the steps that compute the features of the teacher, the last of which is `teach/NAME`.

        Args:
            name: the key that trains.
            aligned: the step that aligns the crops to train on; None for a pack.
            crops: the crops to train on.
            request: the recipe.
        """
        model = UserModel(self.model, self.network, self.input, f"{name}.teacher.network")
        steps = []
        if aligned:
            student = request.get(AlignSettings)
            changes = {
                "template": _described_template(self.input) or model.template,
                "fit": "source",
                "first_pixel": "source",
            }
            align = AlignStageSettings(**{**student.model_dump(), **changes})
            if align.model_dump(exclude={"undetected"}) != student.model_dump():
                crops = StepOutput(f"align/{align.template}")
                steps = [Step(crops.step, align.stage, align, aligned.inputs)]
        settings = TeachSettings(mirror=self.mirror)
        return [*steps, Step(f"teach/{name}", self.stage, settings, {"crops": crops, "model": model})]


def _described_template(text: str) -> str:
    """Return the template that a description of an input names; empty if it names none.

    Raises:
        UsageError: If the description is not valid.
    """
    described = parse_preprocessing(text, replace(PRESETS["sphereface"], template=""))
    return find_template(described.template).name if described.template else ""
