"""The stage `align`: names of crops, errors of the disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfplus.artifacts.work_sharing import SharedWork
from sfplus.errors import PhotoError
from sfplus.images import Pixels, read_photo
from sfplus.stages.align import crop_names

Command = Callable[..., object]


def test_crops_have_distinct_names_that_are_not_names_of_folders() -> None:
    photos = sorted(["a.jpg", "a.jpg.jpg", "a.png", "B.png", "b.jpg", "x.jpg/1.jpg", "x.png", "a-1.jpg", "a-1.jpg"])
    names = dict(zip(photos, crop_names(photos), strict=True))
    folded = {name.casefold() for name in crop_names(photos)}
    assert len(folded) == len(photos) and "x.jpg" not in folded and names["x.jpg/1.jpg"] == "x.jpg/1.jpg"
    assert crop_names(["a/1.png", "a/2.jpeg"]) == ["a/1.jpg", "a/2.jpg"]


@pytest.mark.parametrize(
    ("photos", "names"),
    [
        (["A.png", "a.jpg", "B.png"], ["A.png.jpg", "a.jpg.jpg", "B.jpg"]),
        (["X.JPG/1.jpg", "x.png"], ["X.JPG/1.jpg", "x_.jpg"]),
        (["a.jpg.png", "A.jpg", "A.png"], ["a.jpg.jpg", "A.jpg_.jpg", "A.png.jpg"]),
        (["A.jpg.png", "a.jpg", "a.png"], ["A.jpg.jpg", "a.jpg_.jpg", "a.png.jpg"]),
    ],
)
def test_names_of_crops_differ_by_more_than_case(photos: list[str], names: list[str]) -> None:
    """They stay distinct on file systems that ignore case."""
    assert crop_names(photos) == names


def test_a_read_error_of_the_disk_stops_alignment_and_is_not_recorded(
    drawn: Path, tmp_path: Path, sfplus: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, **_: object) -> None:
        raise PhotoError("cannot be decoded", where=path) from OSError(5, "Input/output error")

    assert sfplus("detect", drawn, tmp_path / "faces").code == 0  # align knows these faces
    monkeypatch.setattr("sfplus.stages.align.read_photo", broken)
    assert sfplus("align", drawn, tmp_path / "out").code == 1
    monkeypatch.undo()
    assert not list((tmp_path / "out").glob(".sfplus/cache/align/*/manifest.json"))
    assert sfplus("align", drawn, tmp_path / "out").code == 0


def test_a_crop_of_an_interrupted_run_goes_if_its_photo_fails_in_the_next_run(
    drawn: Path, tmp_path: Path, sfplus: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(SharedWork):
        def finish(self, *_: object, **__: object) -> None:
            raise KeyboardInterrupt

    def read(path: Path, **options: Any) -> Pixels:
        if path.stem == lost:
            raise PhotoError("has too many pixels", where=path)
        return read_photo(path, **options)

    monkeypatch.setattr("sfplus.stages.align.SharedWork", Interrupted)
    assert sfplus("align", drawn, tmp_path / "out").code == 130
    crops = sorted((tmp_path / "out").glob(".sfplus/cache/align/*.parts/crops/**/*.jpg"))
    lost = crops[0].stem
    monkeypatch.undo()
    monkeypatch.setattr("sfplus.stages.align.read_photo", read)
    assert sfplus("align", drawn, tmp_path / "out").code == 1
    kept = {crop.name for crop in (tmp_path / "out").glob(".sfplus/cache/align/*/crops/**/*.jpg")}
    assert kept == {crop.name for crop in crops[1:]}
