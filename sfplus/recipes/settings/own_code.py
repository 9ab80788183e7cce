"""Settings of code of the user's own, which a recipe names by its import path. Imports nothing of that code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field

from sfplus.io.import_path import is_import_path
from sfplus.recipes.settings.engine import StrictSettings


def _check_import_path(name: str) -> str:
    if not is_import_path(name):
        raise ValueError("is not an import path, package.module:name")
    return name


ImportPath = Annotated[str, AfterValidator(_check_import_path)]


class OwnSettings(StrictSettings):
    """Base of settings whose keys, apart from those declared, are the options of code of the user's own.

    The options are checked by the signature of the code when it is imported (see `io.import_path`).
    """

    model_config = ConfigDict(extra="allow")

    @property
    def code_options(self) -> dict[str, Any]:
        """The options of the code by name."""
        return dict(self.model_extra or {})


class OwnHeadSettings(OwnSettings):
    """Settings of a head of the user's own: a subclass of `hypersphere.Head`."""

    name: ImportPath = Field(description="the head: package.module:Class")


class OwnEnergySettings(OwnSettings):
    """Settings of a regulariser of the user's own: it takes the model, and its call returns a scalar."""

    mode: ImportPath = Field(description="the regulariser: package.module:name")
    weight: float = Field(default=1.0, ge=0, description="the factor of its scalar in the loss")


def names_own_code(value: Any, key: str) -> bool:
    """Return whether a key of settings, which are not validated yet, names code of the user's own."""
    return isinstance(value, Mapping) and isinstance(name := value.get(key), str) and is_import_path(name)


def validate_energy(value: Any, settings: type[StrictSettings], example: str) -> Any:
    """Validate the keys of an energy, of sfplus or of the user's own; settings pass unchanged.

    Args:
        value: the keys.
        settings: those of the energies of sfplus.
        example: of such keys, for messages.

    Raises:
        ValueError: If a key or value is wrong.
    """
    if isinstance(value, StrictSettings):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"an energy is given by keys, such as {example}")
    return (OwnEnergySettings if names_own_code(value, "mode") else settings).model_validate(value)
