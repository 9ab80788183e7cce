"""The key `verify`: verification on a pair list."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from sfplus.artifacts.layout import PAIRS, VERIFY_PHOTOS
from sfplus.artifacts.stage import Deferred, Stage
from sfplus.recipes.settings.align import crop_steps
from sfplus.recipes.settings.embed import EmbedSettings
from sfplus.recipes.steps import (
    InputReference,
    PlanRequest,
    StageKey,
    Step,
    StepOutput,
    UserPairs,
    UserPhotos,
)
from sfplus.verification.protocols import ProtocolName


class VerifySettings(StageKey, BaseModel):
    """Settings of the verification over the folds of a pair list."""

    model_config = ConfigDict(extra="forbid")
    stage: ClassVar[Stage] = Stage("verify", 4, Deferred("sfplus.stages.verify:build"), measures=True)

    protocol: ProtocolName = Field(
        "sphereface", description="how scores and thresholds are computed; every number is reported with this name"
    )
    undetected: Literal["centre-crop", "skip", "fail"] = Field(
        "centre-crop",
        description="what to do with photos without a detected face: use their centre crop, skip their pairs, or fail",
    )
    photos: Path | None = Field(
        None, exclude=True, description="the photos that the pairs name; not needed with a drawn sample"
    )
    pairs: Path | None = Field(
        None, exclude=True, description="the pair list (LFW's pairs.txt); not needed with a drawn sample"
    )

    @property
    def photo_folder(self) -> StepOutput | UserPhotos:
        """The photos: the user's, or those of the drawn sample."""
        return UserPhotos(self.photos) if self.photos else StepOutput("sample", VERIFY_PHOTOS)

    @property
    def pair_list(self) -> InputReference:
        """The pair list: the user's, or that of the drawn sample."""
        return UserPairs(self.pairs) if self.pairs else StepOutput("sample", PAIRS)

    def held_out_steps(self, request: PlanRequest) -> list[Step]:
        """Return the steps that detect and align the photos of the pairs."""
        undetected = "centre-crop" if self.undetected == "centre-crop" else "drop"
        return crop_steps(self.photo_folder, request, "verify", undetected)

    def plan(self, request: PlanRequest) -> list[Step]:
        """Embed the crops of the pairs by each model of the recipe, and verify each."""
        steps, embed = self.held_out_steps(request), request.get(EmbedSettings)
        for name, model in verified_models(request).items():
            inputs = {"crops": StepOutput("align/verify"), "model": model}
            steps.append(Step(f"embed/{name}", embed.stage, embed, inputs))
            inputs = {"features": StepOutput(f"embed/{name}"), "pairs": self.pair_list}
            steps.append(Step(f"verify/{name}", self.stage, self, inputs))
        return steps


def verified_models(request: PlanRequest) -> dict[str, InputReference]:
    """Return the models that a recipe verifies: the user's, or those that it trains and fine-tunes."""
    if model := request.get(EmbedSettings).user_model:
        return {"model": model}
    return {step: StepOutput(step) for name, key in request.keys.items() for step in key.model_steps(name)}
