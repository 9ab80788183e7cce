"""The key `energy` of the trainings of face networks. Imports no torch."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from sfplus.recipes.settings.engine import StrictSettings
from sfplus.recipes.settings.own_code import OwnEnergySettings, validate_energy


class EnergySettings(StrictSettings):
    """Settings of the hyperspherical energy that SphereFace+ adds to the loss."""

    mode: Literal["paper", "batch", "caffe"] = Field(
        default="paper",
        description="paper: the classes of the batch against all classes (MHE paper, sections 3.6 and 5.2); batch: "
        "among "
        "the classes of the batch (OpenSphere: power 2, weight 0.1); caffe: the gradient of the released layer; or "
        "package.module:name, whose options are the further keys",
    )
    power: float = Field(
        default=2.0,
        ge=0,
        le=10,
        description="s of the energy 1/z^s; 0 is log(1/z) (MHE paper: 0, 1, 2); not used in mode caffe",
    )
    weight: float = Field(
        default=1.0,
        ge=0,
        description="lambda_M, the factor of the energy; in mode caffe the alpha of the prototxt, "
        "which has no effect at 10 in exact arithmetic and must be tuned",
    )


AnyEnergySettings = Annotated[
    EnergySettings | OwnEnergySettings,
    BeforeValidator(partial(validate_energy, settings=EnergySettings, example="{mode: paper, weight: 1}")),
]
