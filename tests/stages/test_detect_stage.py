"""The stage `detect` tells bad photos from errors of the disk."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sfplus.errors import PhotoError

Command = Callable[..., object]


def test_a_read_error_of_the_disk_stops_detection_and_is_not_recorded(
    drawn: Path, tmp_path: Path, sfplus: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage can be resumed later, and the photo is not listed as a bad one."""

    def broken(path: Path) -> None:
        raise PhotoError("cannot be decoded", where=path) from OSError(5, "Input/output error")

    monkeypatch.setattr("sfplus.stages.detect.read_photo", broken)
    assert sfplus("align", drawn, tmp_path / "out").code == 1
    monkeypatch.undo()
    assert not list((tmp_path / "out").glob(".sfplus/cache/detect/*/manifest.json"))
