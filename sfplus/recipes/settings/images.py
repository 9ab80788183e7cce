"""The key `data` of recipes for images. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from sfplus.errors import suggest
from sfplus.io.import_path import is_import_path
from sfplus.recipes.settings.engine import StrictSettings

DATA_SETS = ("cifar10", "cifar100", "mnist", "folder", "files")


def _check_name(name: str) -> str:
    if name not in DATA_SETS and not is_import_path(name):
        choices = f"use one of {', '.join(DATA_SETS)}, or package.module:name"
        raise ValueError(f"no data set is called '{name}'; {suggest(name, DATA_SETS) or choices}")
    return name


class ImageDataSettings(StrictSettings):
    """Settings of a set of labelled images and their augmentation."""

    name: Annotated[str, AfterValidator(_check_name)] = Field(
        default="cifar100",
        description="the data set: cifar10, cifar100, mnist; folder: a tree train/<class>, test/<class> of images of "
        "one size; files: images of any size, decoded when they are used (ImageNet); or package.module:name, code that "
        "returns labelled images",
    )
    options: dict[str, Any] = Field(
        default={},
        exclude_if=lambda options: not options,  # which keeps the fingerprints of recipes without this key
        description="options of this code, by the names in its signature",
    )
    root: Path | None = Field(
        default=None,
        exclude=True,  # its content counts, not its path
        description="its folder: torchvision's download, MNIST's idx files or folders of images; default: data/<set>",
    )
    download: bool = Field(default=False, exclude=True, description="download missing files (torchvision)")
    pad: int = Field(default=4, ge=0, description="padding before the random crop (cifar100_input_python.py)")
    mirror: bool = Field(default=True, description="mirror half of the images (cifar100_input_python.py)")
    resize: int = Field(default=256, ge=8, description="files: shorter side after resizing in pixels (AlexNet paper)")
    crop: int = Field(default=224, ge=8, description="files: side of the crop in pixels (AlexNet paper)")
    scarce: int | None = Field(
        default=None,
        ge=0,
        description="a class of which only a fraction is used in training (MHE paper: digit 0 of MNIST)",
    )
    keep: float = Field(default=0.02, gt=0, le=1, description="that fraction (MHE paper: 98 % are removed)")

    @model_validator(mode="after")
    def _check_crop(self) -> Self:
        if self.options and not self.is_code:
            raise ValueError(f"options are for code of your own; {self.name} has none")
        if self.name == "files" and self.crop > self.resize:
            raise ValueError(f"crop {self.crop} is larger than resize {self.resize}")
        return self

    @property
    def is_code(self) -> bool:
        """True if the images come from code of the user's own."""
        return is_import_path(self.name)

    @property
    def folder(self) -> Path:
        """The folder of the data set."""
        default = {"cifar10": "cifar-10", "cifar100": "cifar-100", "mnist": "mnist"}.get(self.name, "pictures")
        return self.root or Path("data") / default
