"""The key `sample`: drawn faces in place of photos."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sfplus.artifacts.stage import Deferred, Stage
from sfplus.recipes.steps import PlanRequest, StageKey, Step


class SampleSettings(StageKey, BaseModel):
    """Settings of the drawn faces that stand in for photos."""

    model_config = ConfigDict(extra="forbid")
    stage: ClassVar[Stage] = Stage("sample", 1, Deferred("sfplus.stages.sample:build"))

    people: int = Field(60, ge=4, le=1_000_000, description="number of people to draw")
    photos: int = Field(10, ge=2, le=10_000, description="photos of each person")
    verify_people: int = Field(20, ge=2, le=1_000_000, description="number of people that are kept for verification")
    folds: int = Field(10, ge=2, le=1000, description="folds of the pair list")
    pairs_per_fold: int = Field(20, ge=1, description="same-person pairs per fold, and as many different-people pairs")
    seed: int = Field(0, ge=0, description="random seed; another seed draws other people")

    @model_validator(mode="after")
    def _check_training_people(self) -> Self:
        if self.people - self.verify_people < 2:
            raise ValueError("verify_people leaves fewer than two people to train on")
        return self

    def plan(self, request: PlanRequest) -> list[Step]:
        """Draw the photos and the pair list."""
        return [Step("sample", self.stage, self)]
