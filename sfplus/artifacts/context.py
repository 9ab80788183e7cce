"""The context of a run, which all stages of a command share: workspace, device, console."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sfplus import __version__
from sfplus.artifacts.inputs import PhotoFolder
from sfplus.artifacts.result_index import ResultIndex
from sfplus.io.console import Console, ProgressLine
from sfplus.io.files import digest_json
from sfplus.io.loggers import get_logger
from sfplus.io.resources import user_folder

if TYPE_CHECKING:
    from sfplus.device import Device

_log = get_logger(__name__)

_PACKAGES = (
    "torch", "torchvision", "accelerate", "facenet-pytorch", "numpy", "opencv-python", "pillow", "scikit-learn",
)  # fmt: skip


@dataclass(frozen=True)
class RunContext:
    """The workspace, console and device of a run.

    Attributes:
        workspace: The folder that holds `cache/` (artefacts, shared by all recipes) and `runs/` (a folder per recipe).
        console: The console that reports progress.
        device_name: `auto`, `cpu`, `cuda` or `cuda:N`; processes that were started together take a GPU each.
        line: The progress line of the current stage.
    """

    workspace: Path
    console: Console
    device_name: str = "auto"
    line: ProgressLine | None = None
    _logged: set[tuple[str, ...]] = field(default_factory=set, repr=False, compare=False)

    @property
    def device(self) -> Device:
        """The device; the first use chooses and announces it.

        Raises:
            DeviceError: If this machine does not have the device.
        """
        # imports torch, which `sfplus status` and a fresh run do not need
        from sfplus.device import choose_device, local_device

        device = choose_device(local_device(self.device_name))
        self._log_once("device: %s", device.describe())
        return device

    @property
    def device_description(self) -> str:
        """The device in words, for manifests and reports."""
        return self.device.describe()

    def log_precision(self, name: str, fp16: bool = True) -> None:
        """Log the precision that training uses for a name, once, unless it is float32 on a CPU.

        Args:
            name: `auto`, `float32`, `bf16` or `fp16`.
            fp16: False if the training has no gradient scaler; see `Device.precision`.
        """
        text = self.device.describe_precision(name, fp16)
        if self.device.is_cuda or text != "float32":
            self._log_once("precision: %s", text)

    def _log_once(self, text: str, value: str) -> None:
        if self.is_new(text, value):
            _log.info(text, value)

    def is_new(self, *words: str) -> bool:
        """Return whether this is the first call with these words in the run, for what is logged once."""
        was_logged = words in self._logged
        self._logged.add(words)
        return not was_logged

    @property
    def progress(self) -> ProgressLine:
        """The progress line of the current stage."""
        assert self.line is not None, "there is a progress line inside a stage only"
        return self.line

    def with_progress(self, line: ProgressLine) -> RunContext:
        """Return the same context with the progress line of another stage."""
        return replace(self, line=line)

    def artefact_folder(self, stage: str, fingerprint: str) -> Path:
        """Return the folder of the artefact with this fingerprint, which need not exist yet."""
        return self.workspace / "cache" / stage / fingerprint[:20]

    def photo_folder(self, root: Path, names: list[str] | None = None) -> PhotoFolder:
        """Return a folder of photos, or some photos in it, whose digests are remembered in this workspace."""
        key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:20]
        return PhotoFolder(root, self.workspace / "cache" / "index" / f"{key}.json", names)

    def result_index(self, stage: str, deciding: object, *, shared: bool = False) -> ResultIndex:
        """Return the results of a stage by the content of each photo or crop.

        Args:
            stage: The name of the stage.
            deciding: Everything else that decides a result, ready for JSON.
            shared: Whether results are kept for all workspaces of the user, not for this one only.
        """
        folder = user_folder() if shared else self.workspace / "cache" / "index"
        return ResultIndex(folder / f"{stage}-{digest_json(deciding)[:20]}.sqlite")

    @staticmethod
    def versions() -> dict[str, str]:
        """Return the versions of sfplus, Python and the packages that decide results."""
        return dict(_versions())


def is_first() -> bool:
    """Return whether this is the first of the processes that torchrun or accelerate launch started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


@cache
def _versions() -> dict[str, str]:
    versions = {"sfplus": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "missing"
    return versions
