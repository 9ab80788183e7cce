"""Detectors by name, without importing torch before one is created."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfplus.errors import UsageError, suggest
from sfplus.io.import_path import find_sources, is_import_path, source_digest
from sfplus.weights.zoo import detector_file, read_detector

if TYPE_CHECKING:
    from sfplus.detection.interface import FaceDetector, PhotoDetector
    from sfplus.device import Device

MTCNN, YUNET = "mtcnn", "yunet"
DETECTORS = (MTCNN, YUNET)


def check_detector(name: str) -> None:
    """Check that a detector has this name, or that it has the form of an own one, `package.module:Class`.

    Raises:
        UsageError: If neither is so.
    """
    if name not in DETECTORS and not is_import_path(name):
        remedy = suggest(name, DETECTORS) or f"use {', '.join(DETECTORS)} or package.module:Class"
        raise UsageError(f"no detector is called '{name}'", where="detector", remedy=remedy)


def detector_files(name: str) -> list[Path]:
    """Return the files that decide what a detector finds: its model or its code; none for MTCNN.

    Raises:
        UsageError: If the model is not fetched, or there is no such module.
    """
    if is_import_path(name):
        return list(find_sources(name).values())
    return [] if name == MTCNN else [detector_file(name)]


def detector_digest(name: str) -> str:
    """Return a digest of the files that decide what a detector finds.

    Raises:
        UsageError: If the model is not fetched, or there is no such module.
        WeightsError: If the model was changed.
    """
    if is_import_path(name):
        return source_digest(name)
    return hashlib.sha256(b"" if name == MTCNN else read_detector(name)).hexdigest()


def create_detector(
    detector: str | FaceDetector = MTCNN,
    device: str | Device = "auto",
    *,
    turned: bool = False,
    min_face: int = 20,
    min_score: float = 0.7,
    mtcnn: Mapping[str, Any] | None = None,
) -> PhotoDetector:
    """Create a detector, which takes photos in any form.

    Args:
        detector: `mtcnn`; `yunet`; `package.module:Class`, a class with the method of `FaceDetector`, which is called
            with the keyword arguments `min_face` and `device` (`cpu`, `cuda:0`); or such an object.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, or a `Device`.
        turned: whether photos without a face are tried in the other three orientations (see `TurnedDetector`).
        min_face: side of the smallest detected face, pixels; not for an object.
        min_score: of a face, for YuNet.
        mtcnn: further arguments of MTCNN (see `Detector`).

    Raises:
        UsageError: If there is no such detector, its model is not fetched, or a setting is out of range.
        DeviceError: If the machine has no such device.
        WeightsError: If a model was changed.
    """
    # start-up time: these import torch
    from sfplus.detection.interface import PhotoDetector
    from sfplus.detection.mtcnn import Detector
    from sfplus.detection.own import OwnDetector, load_detector
    from sfplus.detection.turned import TurnedDetector
    from sfplus.detection.yunet import YuNet

    found: PhotoDetector
    if isinstance(detector, PhotoDetector):
        found = detector
    elif not isinstance(detector, str):
        found = OwnDetector(detector, type(detector).__name__, device)
    else:
        check_detector(detector)
        if detector == MTCNN:
            found = Detector(min_face, device=device, **mtcnn or {})
        elif detector == YUNET:
            found = YuNet(min_face, min_score, device)
        else:
            found = load_detector(detector, min_face, device)
    return TurnedDetector(found) if turned else found
