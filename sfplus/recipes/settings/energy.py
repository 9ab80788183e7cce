"""The key `energy` of the trainings of face networks. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from sfplus.recipes.settings.engine import StrictSettings
from sfplus.recipes.settings.own_code import OwnEnergySettings, names_own_code


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


def validate_energy(value: Any) -> Any:
    """Validate the keys of an energy; settings pass unchanged.

    Raises:
        ValueError: If a key or value is wrong.
    """
    if isinstance(value, StrictSettings):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("an energy is given by keys, such as {mode: paper, weight: 1}")
    kind = OwnEnergySettings if names_own_code(value, "mode") else EnergySettings
    return kind.model_validate(value)


AnyEnergySettings = Annotated[EnergySettings | OwnEnergySettings, BeforeValidator(validate_energy)]
