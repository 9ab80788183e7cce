"""What all stages of one command share: the workspace on disk, the device, the console."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sfplus import __version__
from sfplus.io.console import Console, ProgressLine

if TYPE_CHECKING:
    from sfplus.artifacts.inputs import PhotoFolder
    from sfplus.device import Device

_PACKAGES = (
    "torch",
    "torchvision",
    "accelerate",
    "facenet-pytorch",
    "numpy",
    "opencv-python",
    "pillow",
    "scikit-learn",
)


@dataclass(frozen=True)
class Run:
    """The surroundings of a stage.

    Attributes:
        workspace: the folder that holds `cache/` (artefacts, shared by all recipes) and `runs/` (a folder a recipe).
        console: says what happens.
        device_name: `auto`, `cpu`, `cuda` or `cuda:N`.
        step: the console's line of the stage at work.
    """

    workspace: Path
    console: Console
    device_name: str = "auto"
    step: ProgressLine | None = None

    @property
    def device(self) -> Device:
        """The device, found at first use and then said aloud.

        Raises:
            DeviceError: this machine has no such device.
        """
        from sfplus.device import choose_device

        device = choose_device(self.device_name)
        self.console.print_once(f"device: {device.describe()}")
        return device

    @property
    def device_said(self) -> str:
        """The device for the manifest."""
        return self.device.describe()

    @property
    def bar(self) -> ProgressLine:
        """The progress line of the stage at work."""
        assert self.step is not None, "only inside a stage"
        return self.step

    def at(self, step: ProgressLine) -> Run:
        """The same run, its console at another stage's line."""
        return replace(self, step=step)

    def artefact_folder(self, stage: str, fingerprint: str) -> Path:
        """Where the artefact of this fingerprint is, or will be."""
        return self.workspace / "cache" / stage / fingerprint[:20]

    def photo_folder(self, root: Path) -> PhotoFolder:
        """A folder of photos whose digests are remembered in this workspace."""
        from sfplus.artifacts.inputs import PhotoFolder

        key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:20]
        return PhotoFolder(root, self.workspace / "cache" / "index" / f"{key}.json")

    @staticmethod
    def versions() -> dict[str, str]:
        """Versions of sfplus, Python and the packages that decide results."""
        return _versions()


def is_first() -> bool:
    """Whether this process is the one that talks and writes, of those that torchrun or accelerate launch started."""
    return os.environ.get("RANK", "0") == "0"


@cache
def _versions() -> dict[str, str]:
    found = {"sfplus": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found
