"""The stage `detect` tells bad photos from errors of the disk, and detects photos of several parts together."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sfplus.detection import Faces
from sfplus.detection.sizes import sizes_for
from sfplus.device import choose_device
from sfplus.errors import PhotoError
from sfplus.io.prefetch import batch_by_size
from sfplus.recipes.settings.detect import DetectSettings
from sfplus.stages.detect import _whole_parts

Command = Callable[..., Any]


def test_a_read_error_of_the_disk_stops_detection_and_is_not_recorded(
    drawn: Path, tmp_path: Path, sfplus: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage can be resumed later, and the photo is not listed as a bad one."""

    def broken(path: Path, **_: object) -> None:
        raise PhotoError("cannot be decoded", where=path) from OSError(5, "Input/output error")

    monkeypatch.setattr("sfplus.stages.detect.read_photo", broken)
    assert sfplus("align", drawn, tmp_path / "out").code == 1
    monkeypatch.undo()
    assert not list((tmp_path / "out").glob(".sfplus/cache/detect/*/manifest.json"))


@pytest.mark.parametrize("photos", [1, 3, 5, 100])
def test_photos_of_several_parts_are_detected_together(photos: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is finished once its last photo is detected, however the photos are grouped; faulty ones count, too."""
    parts = {0: 4, 1: 4, 2: 3}
    items: list[Any] = [
        (part, (f"{part}-{n}", np.zeros((2, 2, 3), np.uint8))) for part in parts for n in range(parts[part])
    ]
    items[5] = (1, ("1-1", PhotoError("is empty")))
    detector = SimpleNamespace(sizes=sizes_for(choose_device("cpu"))._replace(photos=photos), calls=[])

    def detect(images: list[np.ndarray]) -> list[Faces]:
        detector.calls.append(len(images))
        return [Faces.empty() for _ in images]

    detector.detect = detect
    taken: list[str] = []
    stream = (taken.append(item[1][0]) or item for item in items)  # type: ignore[func-returns-value]
    finished = []
    batches = batch_by_size(stream, lambda _: 1, 1 << 20, photos)
    for part, rows in _whole_parts(batches, detector, DetectSettings(), parts.__getitem__):  # type: ignore[arg-type]
        finished.append(part)
        assert [row["photo"] for row, _ in rows] == [f"{part}-{n}" for n in range(parts[part])]
        assert [is_new for _, is_new in rows] == [row["photo"] != "1-1" for row, _ in rows]
        assert len(taken) <= sum(parts[p] for p in finished) + photos - 1  # no photo too many is read before
    assert finished == [0, 1, 2] and sum(detector.calls) == 10
    assert max(detector.calls) == min(photos, 10)


@pytest.mark.slow
def test_parts_do_not_change_the_artefact(
    drawn: Path, tmp_path: Path, sfplus: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = []
    for part, photos in ((32, 64), (2, 64), (5, 3)):
        monkeypatch.setenv("SFPLUS_HOME", str(tmp_path / f"home-{part}"))
        monkeypatch.setattr("sfplus.stages.detect.BATCH", part)
        monkeypatch.setattr("sfplus.detection.mtcnn.sizes_for", lambda d, n=photos: sizes_for(d)._replace(photos=n))
        out = tmp_path / str(part)
        assert sfplus("align", drawn, out).code == 0
        (faces,) = out.glob(".sfplus/cache/detect/*/faces.parquet")
        tables.append(faces.read_bytes())
    assert tables[0] == tables[1] == tables[2]
