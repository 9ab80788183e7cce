"""Detectors by name, without importing torch before one is created."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sfplus.errors import UsageError, suggest
from sfplus.io.import_path import is_import_path

if TYPE_CHECKING:
    from sfplus.detection.interface import FaceDetector, PhotoDetector
    from sfplus.device import Device

MTCNN, YUNET = "mtcnn", "yunet"
ZOO_DETECTORS = (YUNET,)
DETECTORS = (MTCNN, *ZOO_DETECTORS)


def check_detector(name: str) -> None:
    """Check that a detector has this name, or that it has the form of an own one, `package.module:Class`.

    Raises:
        UsageError: If neither is so.
    """
    if name not in DETECTORS and not is_import_path(name):
        remedy = suggest(name, DETECTORS) or f"use {', '.join(DETECTORS)} or package.module:Class"
        raise UsageError(f"no detector is called '{name}'", where="detector", remedy=remedy)


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

    created: PhotoDetector
    if isinstance(detector, PhotoDetector):
        created = detector
    elif not isinstance(detector, str):
        created = OwnDetector(detector, type(detector).__name__, device)
    else:
        check_detector(detector)
        if detector == MTCNN:
            created = Detector(min_face, device=device, **mtcnn or {})
        elif detector == YUNET:
            created = YuNet(min_face, min_score, device)
        else:
            created = load_detector(detector, min_face, device)
    return TurnedDetector(created) if turned else created
