"""Detectors of the user's own."""

from __future__ import annotations

import threading
from typing import Any

from sfplus.detection.faces import Faces
from sfplus.detection.interface import FaceDetector, PhotoDetector
from sfplus.detection.sizes import sizes_for
from sfplus.device import Device, choose_device
from sfplus.errors import SfplusError, UsageError, first_line
from sfplus.images import Pixels
from sfplus.io.import_path import bind_options, import_object

_REMEDY = "mend its detect method: it gets a list of photos and returns a list with a Faces for each"


class OwnDetector(PhotoDetector):
    """A detector of the user's own, which gets a batch of photos at a time, and whose results are checked.

    Args:
        detector: the detector; one thread at a time calls it.
        name: its name in messages.
        device: decides how many photos it gets at a time.

    Raises:
        UsageError: If it has no method `detect`, and later, if that fails or returns anything else.
    """

    def __init__(self, detector: FaceDetector, name: str, device: str | Device = "auto") -> None:
        if not callable(getattr(detector, "detect", None)):
            raise UsageError("has no method 'detect'", where=name, remedy="see sfplus.detection.FaceDetector")
        self._settings = {"detector": detector, "name": name, "device": device}
        self._detector, self._name = detector, name
        self.sizes = sizes_for(choose_device(device))
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return self._settings

    def __setstate__(self, settings: dict[str, Any]) -> None:
        self.__init__(**settings)  # type: ignore[misc]

    def _detect_together(self, photos: list[Pixels]) -> list[Faces]:
        try:
            with self._lock:
                results: Any = self._detector.detect(photos)
        except SfplusError:
            raise
        except Exception as error:  # code of the user's
            reason = f"failed ({type(error).__name__}: {first_line(error)})"
            raise UsageError(reason, where=self._name, remedy="mend its detect method") from error
        if not isinstance(results, list) or len(results) != len(photos):
            count = f" of {len(results)}" if isinstance(results, list) else ""
            reason = f"returned {type(results).__name__}{count} for {len(photos)} photos"
            raise UsageError(reason, where=self._name, remedy=_REMEDY)
        for faces in results:
            if not isinstance(faces, Faces):
                reason = f"returned {type(faces).__name__} for a photo, not Faces"
                raise UsageError(reason, where=self._name, remedy=_REMEDY)
        return results


def load_detector(name: str, min_face: int, device: str | Device) -> OwnDetector:
    """Import `package.module:Class`, which runs the module, and create a detector.

    Args:
        name: the import path.
        min_face: side of the smallest face, pixels, which the class gets.
        device: the device, of which the class gets the name, such as `cpu` or `cuda:0`.

    Raises:
        UsageError: If there is no such class, it does not take these arguments, or fails.
    """
    kind, chosen = import_object(name), choose_device(device)
    bind_options(kind, {}, name, ("min_face", "device"))
    try:
        detector = kind(min_face=min_face, device=str(chosen.torch))
    except SfplusError:
        raise
    except Exception as error:  # code of the user's
        reason = f"failed ({type(error).__name__}: {first_line(error)})"
        raise UsageError(reason, where=name, remedy="mend this class") from error
    return OwnDetector(detector, name, chosen)
