"""The settings of training, with their sources. Imports no torch, so that recipes can be checked at once."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class HeadSettings(_Settings):
    """The classifier that training puts on top of the network; defaults: sphereface_model.prototxt, layer fc6."""

    name: Literal["asoftmax"] = Field(default="asoftmax", description="the classifier; asoftmax is SphereFace's")
    m: int = Field(default=4, ge=1, le=4, description="angular margin (SphereFace paper: 4 is best)")
    base: float = Field(default=1000.0, ge=0, description="lambda before its decay (prototxt)")
    gamma: float = Field(
        default=0.12, ge=0, description="speed of lambda's decay (prototxt; 0.11 for SphereFace+ with m = 2, 3)"
    )
    power: float = Field(default=1.0, ge=0, description="exponent of lambda's decay (prototxt)")
    lambda_min: float = Field(
        default=5.0, ge=0, description="where lambda stops (prototxt); small sets of photos bear 0"
    )
    iteration: int = Field(
        default=0, ge=0, description="start of lambda's counter (prototxt; 2000 in SphereFace+ with m = 4)"
    )


class EnergySettings(_Settings):
    """The hyperspherical energy that SphereFace+ adds to the loss."""

    mode: Literal["paper", "batch", "caffe"] = Field(
        default="paper",
        description="paper: the batch's classifiers against all others (MHE paper, sections 3.6 and 5.2); batch: among "
        "the people of the batch (OpenSphere: power 2, weight 0.1); caffe: the push of the released layer",
    )
    power: float = Field(
        default=2.0, ge=0, description="s of the energy 1/z^s; 0 is log(1/z) (MHE paper: 0, 1, 2); none in mode caffe"
    )
    weight: float = Field(
        default=1.0,
        ge=0,
        description="lambda_M, the factor of the energy; in mode caffe the alpha of the prototxt, "
        "which in exact arithmetic does nothing at 10; tune it anew",
    )


class SolverSettings(_Settings):
    """How a network is trained; defaults: sphereface_solver.prototxt and sphereface_model.prototxt on two GPUs."""

    head: HeadSettings = Field(default=HeadSettings(), description="the classifier and its margin")
    energy: EnergySettings | None = Field(default=None, description="the energy of SphereFace+; none for SphereFace")
    base_lr: float = Field(default=0.1, gt=0, description="learning rate at the start (solver)")
    steps: tuple[int, ...] = Field(
        default=(16000, 24000, 28000), description="after this many steps the rate falls (solver)"
    )
    lr_gamma: float = Field(default=0.1, gt=0, le=1, description="factor of each fall (solver)")
    max_iter: int = Field(default=28000, ge=1, description="number of steps (solver)")
    batch_size: int = Field(default=512, ge=1, description="crops per step over all processes (256 per GPU, two GPUs)")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD (solver)")
    weight_decay: float = Field(default=5e-4, ge=0, description="weight decay, none on biases (solver)")
    mirror: bool = Field(default=True, description="mirror half of the crops at random (prototxt)")
    seed: int = Field(
        default=0, ge=0, le=2**63 - 1, description="of the initial weights, the order of crops and the mirroring"
    )
    checkpoint_every: int = Field(
        default=1000, ge=1, description="steps between checkpoints; does not change the result"
    )
    log_every: int = Field(default=100, ge=1, description="steps between rows of the history (solver: display)")

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if list(self.steps) != sorted(set(self.steps)) or min(self.steps, default=1) < 1:
            raise ValueError("steps must be rising positive numbers")
        return self


class TrainingSettings(SolverSettings):
    """How a new network is trained, and which one."""

    network: Literal["sphereface4", "sphereface10", "sphereface20", "sphereface36", "sphereface64"] = Field(
        default="sphereface20", description="the network (SphereFace paper, table 2)"
    )
    feature_size: int = Field(default=512, ge=1, le=65536, description="length of a feature (prototxt, fc5)")
    width: float = Field(
        default=1.0, gt=0, le=16, description="multiplier of the channels; below 1 for small computers"
    )
