"""The key `verify`: verification on a pair list."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sfplus.artifacts.layout import PAIRS, VERIFY_PHOTOS
from sfplus.artifacts.stage import Deferred, Stage
from sfplus.datasets.verification_bin import BIN_SUFFIX
from sfplus.recipes.settings.align import crop_steps
from sfplus.recipes.settings.embed import EmbedSettings
from sfplus.recipes.steps import (
    InputReference,
    PlanRequest,
    StageKey,
    Step,
    StepOutput,
    UserBin,
    UserPairs,
    UserPhotos,
)
from sfplus.verification.protocols import ProtocolName


class VerifySettings(StageKey, BaseModel):
    """Settings of the verification over the folds of a pair list."""

    model_config = ConfigDict(extra="forbid")
    stage: ClassVar[Stage] = Stage("verify", 5, Deferred("sfplus.stages.verify:build"), measures=True)

    protocol: ProtocolName = Field(
        "sphereface", description="how scores and thresholds are computed; every number is reported with this name"
    )
    undetected: Literal["centre-crop", "skip", "fail"] = Field(
        "centre-crop",
        description="what to do with photos without a detected face: use their centre crop, skip their pairs, or fail",
    )
    photos: Path | None = Field(
        None,
        exclude=True,
        description="the folder of the photos that the pairs name, or a .bin file of insightface (agedb_30.bin); "
        "empty: people of train.photos are held out, or those of a drawn sample are verified",
    )
    pairs: Path | None = Field(
        None, exclude=True, description="the pair list (LFW's pairs.txt); empty: pairs of these people are drawn"
    )
    seed: int = Field(
        0,
        ge=0,
        exclude=True,
        description="random seed of the people of train.photos that are held out, and their pairs",
    )
    crops: bool = Field(
        False, exclude=True, description="whether the photos are crops that are aligned already; nothing is detected"
    )
    folds: int | None = Field(
        None, ge=2, exclude=True, description="number of folds to split the pairs into, instead of those of the list"
    )

    @model_validator(mode="after")
    def _check_sources(self) -> VerifySettings:
        if self.crops and not self.photos:
            raise ValueError("crops needs photos: the folder of the crops")
        if self.folds and not self.pairs:
            raise ValueError("folds needs pairs; drawn pairs have sample.folds")
        return self

    @property
    def has_crops(self) -> bool:
        """True if the photos are aligned crops."""
        return self.crops or isinstance(self.photo_folder, UserBin)

    @property
    def photo_folder(self) -> StepOutput | UserPhotos | UserBin:
        """The photos: those of the user's that the pairs name, or those of the drawn sample."""
        if self.photos is None:
            return StepOutput("sample", VERIFY_PHOTOS)
        if self.photos.suffix.lower() == BIN_SUFFIX:
            return UserBin(self.photos)
        return UserPhotos(self.photos, self.pair_list if isinstance(self.pair_list, UserPairs) else None)

    @property
    def pair_list(self) -> StepOutput | UserPairs:
        """The pair list: the user's, or that of the drawn sample."""
        if self.pairs is None:
            return StepOutput("sample", PAIRS)
        photos = self.photos if self.photos and self.photos.suffix.lower() != BIN_SUFFIX else None
        return UserPairs(self.pairs, photos, self.folds or 0, self.undetected == "skip")

    def held_out_steps(self, request: PlanRequest) -> list[Step]:
        """Return the steps that detect and align the photos of the pairs; none for aligned crops."""
        if self.has_crops:
            return []
        undetected = "centre-crop" if self.undetected == "centre-crop" else "drop"
        return crop_steps(self.photo_folder, request, "verify", undetected)

    def plan(self, request: PlanRequest) -> list[Step]:
        """Embed the crops of the pairs by each model of the recipe, and verify each."""
        steps = self.held_out_steps(request)
        for name in verified_models(request):
            crops = self.photo_folder if self.has_crops else StepOutput("align/verify")
            steps.append(embed_step(request, name, crops, f"embed/{name}"))
            inputs: dict[str, InputReference] = {"features": StepOutput(f"embed/{name}"), "pairs": self.pair_list}
            steps.append(Step(f"verify/{name}", self.stage, self, inputs))
        return steps


def embed_step(request: PlanRequest, model: str, crops: InputReference, name: str) -> Step:
    """Return the step of this name that embeds crops by one of `verified_models`."""
    embed = request.get(EmbedSettings)
    inputs = {"crops": crops, "model": verified_models(request)[model], **_network_code(request, model)}
    return Step(name, embed.stage, embed, inputs)


def _network_code(request: PlanRequest, model: str) -> dict[str, InputReference]:
    """Return the code of the network of a model that the recipe trains, if it is code of the user's own."""
    keys = (key for name, key in request.keys.items() if model in key.model_steps(name))
    return next((key.network_code(request) for key in keys), {})


def verified_models(request: PlanRequest) -> dict[str, InputReference]:
    """Return the models that a recipe measures: the user's, or those that it trains and fine-tunes."""
    if model := request.get(EmbedSettings).user_model:
        return {"model": model}
    return {step: StepOutput(step) for name, key in request.keys.items() for step in key.model_steps(name)}
