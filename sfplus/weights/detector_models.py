"""The models of detectors, which the zoo fetches and OpenCV reads."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sfplus.errors import UsageError, WeightsError, explain_damage
from sfplus.io.resources import user_folder
from sfplus.weights import ONNX_MODEL
from sfplus.weights.zoo import find_entry


def detector_file(name: str) -> Path:
    """Return the file of a detector of the zoo.

    Raises:
        UsageError: If it is not fetched.
    """
    if not (path := user_folder() / name / ONNX_MODEL).is_file():
        raise UsageError("is not on this machine", where=name, remedy=f"get it first: sfplus models fetch {name}")
    return path


def read_detector(name: str) -> bytes:
    """Read the file of a detector of the zoo.

    Raises:
        UsageError: If it is not fetched.
        WeightsError: If it was changed, or cannot be read.
    """
    path, (sha256,) = detector_file(name), find_entry(name).files.values()
    remedy = f"get it again: sfplus models fetch {name}"
    with explain_damage(path, remedy=remedy, error=WeightsError):
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise WeightsError("was changed: its SHA-256 differs", where=path, remedy=remedy)
    return content
