"""The settings that every kind of training has. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["auto", "float32", "bf16", "fp16"]
INDIFFERENT = frozenset({"checkpoint_every", "keep"})
"""Settings that change no result: no digest covers them."""


class StrictSettings(BaseModel):
    """Settings that are fixed once they are read; an unknown key and a number that is not finite are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LoopSettings(StrictSettings):
    """What every kind of training has in common; see `training.engine`."""

    max_iter: int = Field(default=10000, ge=1, description="number of steps")
    batch_size: int = Field(default=128, ge=1, description="samples per step over all processes")
    seed: int = Field(default=0, ge=0, le=2**63 - 1, description="of weights, batches and all that training draws")
    precision: Precision = Field(
        default="auto",
        description="of the network's passes, the losses are float32: auto is bf16 on a GPU that has it, else float32",
    )
    log_every: int = Field(default=100, ge=1, description="steps between rows of the history")
    checkpoint_every: int = Field(
        default=1000, ge=1, description="steps between checkpoints; does not change the result"
    )
    keep: int = Field(default=2, ge=1, description="how many checkpoints stay; does not change the result")


def check_rising(steps: Sequence[int]) -> None:
    """Steps of a schedule are rising positive numbers."""
    if list(steps) != sorted(set(steps)) or min(steps, default=1) < 1:
        raise ValueError("steps must be rising positive numbers")
