"""Detectors of the user's own."""

from __future__ import annotations

import threading
from typing import Any

from sfplus.detection.faces import Faces
from sfplus.detection.interface import FaceDetector, PhotoDetector
from sfplus.detection.sizes import sizes_for
from sfplus.device import Device, choose_device
from sfplus.errors import PhotoError, SfplusError, UsageError, first_line
from sfplus.images import Pixels
from sfplus.io.import_path import bind_options, import_object

_MEND = "mend its detect method"
_REMEDY = f"{_MEND}: it gets a list of photos and returns a list with a Faces for each"


class DetectorFault(PhotoError):
    """A detector of the user's own fails for a photo; `where` is its name."""


class OwnDetector(PhotoDetector):
    """A detector of the user's own, which gets a batch of photos at a time, and whose results are checked.

    The photos are read-only. If it fails for a batch, it gets the photos of this batch one by one.

    Args:
        detector: the detector; one thread at a time calls it.
        name: its name in messages.
        device: decides how many photos it gets at a time.

    Raises:
        UsageError: If it has no method `detect`, and later, if that returns anything else, or no photo works.
        DetectorFault: Later, if it fails for a photo, or returns impossible faces, after others worked.
    """

    def __init__(self, detector: FaceDetector, name: str, device: str | Device = "auto") -> None:
        if not callable(getattr(detector, "detect", None)):
            raise UsageError("has no method 'detect'", where=name, remedy="see sfplus.detection.FaceDetector")
        self._settings = {"detector": detector, "name": name, "device": device}
        self._detector, self._name = detector, name
        self.sizes = sizes_for(choose_device(device))
        self._lock = threading.Lock()
        self._has_worked = False

    def __getstate__(self) -> dict[str, Any]:
        return self._settings

    def __setstate__(self, settings: dict[str, Any]) -> None:
        self.__init__(**settings)  # type: ignore[misc]

    def _detect_together(self, photos: list[Pixels]) -> list[Faces]:
        try:
            detected = self._call(photos)
        except DetectorFault as fault:
            detected = self._detect_each(photos, fault)
        self._has_worked = True
        return detected

    def _detect_each(self, photos: list[Pixels], fault: DetectorFault) -> list[Faces]:
        """Detect photo by photo after a failure, and raise that of the first photo that fails again."""
        detected, faults = [], [fault] if len(photos) == 1 else []
        for photo in photos if len(photos) > 1 else ():
            try:
                detected += self._call([photo])
            except DetectorFault as error:
                faults.append(error)
        self._has_worked = self._has_worked or bool(detected)
        if faults and self._has_worked:
            raise faults[0]
        if faults:  # it is not the photos
            raise UsageError(fault.reason, where=self._name, remedy=fault.remedy) from fault.__cause__
        return detected

    def _call(self, photos: list[Pixels]) -> list[Faces]:
        try:
            with self._lock:
                results: Any = self._detector.detect([_read_only(photo) for photo in photos])
        except PhotoError:
            raise
        except (Exception, SystemExit) as error:  # code of the user's
            reason = str(error) if isinstance(error, SfplusError) else f"{type(error).__name__}: {first_line(error)}"
            raise DetectorFault(f"failed ({reason})", where=self._name, remedy=_MEND) from error
        if not isinstance(results, list) or len(results) != len(photos):
            count = f" of {len(results)}" if isinstance(results, list) else ""
            reason = f"returned {type(results).__name__}{count} for {len(photos)} photos"
            raise UsageError(reason, where=self._name, remedy=_REMEDY)
        for photo, faces in zip(photos, results, strict=True):
            if not isinstance(faces, Faces):
                reason = f"returned {type(faces).__name__} for a photo, not Faces"
                raise UsageError(reason, where=self._name, remedy=_REMEDY)
            if reason := _impossible(faces, *photo.shape[:2]):
                raise DetectorFault(f"returned {reason}", where=self._name, remedy=_MEND)
        return results


def _read_only(photo: Pixels) -> Pixels:
    view = photo.view()
    view.setflags(write=False)
    return view


def _impossible(faces: Faces, height: int, width: int) -> str:
    """Return what is wrong with the faces of a photo; "" if nothing is."""
    x1, y1, x2, y2 = faces.boxes.T
    bad_scores = (faces.scores < 0) | (faces.scores > 1)
    if bad_scores.any():
        return f"the score {faces.scores[bad_scores][0]:g}, not one from 0 to 1"
    inverted, outside = (x1 > x2) | (y1 > y2), (x2 < 0) | (y2 < 0) | (x1 >= width) | (y1 >= height)
    for rows, problem in ((inverted, "is not x1 y1 x2 y2"), (outside, f"is outside the photo of {width}x{height}")):
        if rows.any():
            return f"a box that {problem}: {', '.join(f'{number:g}' for number in faces.boxes[rows][0])}"
    return ""


def find_detector_class(name: str) -> Any:
    """Import `package.module:Class`, which runs the module, and check that it can be a detector.

    Raises:
        UsageError: If there is no such class, or it does not take `min_face` and `device`.
    """
    kind = import_object(name)
    bind_options(kind, {}, name, ("min_face", "device"))
    return kind


def load_detector(name: str, min_face: int, device: str | Device) -> OwnDetector:
    """Import `package.module:Class`, which runs the module, and create a detector.

    Args:
        name: the import path.
        min_face: side of the smallest face, pixels, which the class gets.
        device: the device, of which the class gets the name, such as `cpu` or `cuda:0`.

    Raises:
        UsageError: If there is no such class, it does not take these arguments, or fails.
    """
    kind, chosen = find_detector_class(name), choose_device(device)
    try:
        detector = kind(min_face=min_face, device=str(chosen.torch))
    except SfplusError:
        raise
    except (Exception, SystemExit) as error:  # code of the user's
        reason = f"failed ({type(error).__name__}: {first_line(error)})"
        raise UsageError(reason, where=name, remedy="mend this class") from error
    return OwnDetector(detector, name, chosen)
