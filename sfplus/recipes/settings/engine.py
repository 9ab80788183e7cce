"""Settings that all kinds of training share. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sfplus.artifacts.settings import NO_EFFECT_ON_RESULT

Precision = Literal["auto", "float32", "bf16", "fp16"]


class StrictSettings(BaseModel):
    """Base of settings that are immutable; unknown keys and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LoopSettings(StrictSettings):
    """Settings of the training loop; see `training.engine`."""

    max_iter: int = Field(default=10000, ge=1, description="number of steps")
    batch_size: int = Field(default=128, ge=1, le=10_000_000, description="samples per step over all processes")
    seed: int = Field(
        default=0, ge=0, le=2**63 - 1, description="random seed of weights, batches and everything else that is drawn"
    )
    precision: Precision = Field(
        default="auto",
        description="precision of the forward passes, losses are float32; auto: bf16 on a GPU that computes it "
        "natively, fp16 on other GPUs with tensor cores, else float32",
    )
    log_every: int = Field(default=100, ge=1, description="steps between rows of the history")
    checkpoint_every: int = Field(
        default=1000,
        ge=1,
        description="steps between checkpoints; does not change the result",
        json_schema_extra=NO_EFFECT_ON_RESULT,
    )
    keep: int = Field(
        default=2,
        ge=1,
        description="number of checkpoints to keep; does not change the result",
        json_schema_extra=NO_EFFECT_ON_RESULT,
    )


def check_rising(steps: Sequence[int]) -> None:
    """Check that the steps of a schedule are rising positive numbers.

    Raises:
        ValueError: If they are not.
    """
    if list(steps) != sorted(set(steps)) or min(steps, default=1) < 1:
        raise ValueError("steps must be rising positive numbers")
