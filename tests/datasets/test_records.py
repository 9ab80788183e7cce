from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from collection_writers import encode, random_crop

from sfplus.datasets.records import (
    Record,
    person_from_number,
    person_from_path,
    person_from_text,
    skip_records,
)
from sfplus.errors import DatasetError, PhotoError


def test_records_decode_bytes_paths_and_pixels(tmp_path: Path) -> None:
    pixels = random_crop(0)
    (tmp_path / "a.png").write_bytes(encode(pixels))
    for image in (encode(pixels), tmp_path / "a.png", pixels):
        np.testing.assert_array_equal(Record("a", "Ada", image).decode(), pixels)
    with pytest.raises(PhotoError, match="has no label"):
        Record("a", "", PhotoError("has no label")).decode()


def test_skipped_records_leave_out_files_at_the_start() -> None:
    files, counts = [Path("a"), Path("b"), Path("c")], [2, 0, 3]
    assert list(skip_records(files, counts, 0)) == [(Path("a"), 0), (Path("c"), 0)]
    assert list(skip_records(files, counts, 1)) == [(Path("a"), 1), (Path("c"), 0)]
    assert list(skip_records(files, counts, 4)) == [(Path("c"), 2)]
    assert list(skip_records(files, counts, 5)) == []


@pytest.mark.parametrize(
    ("label", "person"), [(" Ada Lovelace\n", "Ada Lovelace"), ("12", "0000012"), ("12a", "12a"), ("Zoë", "Zoë")]
)
def test_text_labels_are_names_or_numbers(label: str, person: str) -> None:
    assert person_from_text(label, "a.png") == person


@pytest.mark.parametrize("label", ["", "  ", "a\nb", "x" * 256, "-3", str(1 << 31)])
def test_invalid_text_labels_are_refused(label: str) -> None:
    with pytest.raises(PhotoError, match=r"a\.png: its label is"):
        person_from_text(label, "a.png")


@pytest.mark.parametrize("label", [-1, 0.5, float("inf"), float("nan"), 1 << 31])
def test_invalid_numbers_are_refused(label: float) -> None:
    with pytest.raises(PhotoError, match="labels are integers from 0 on"):
        person_from_number(label, "a.png")


def test_the_person_of_a_path_is_its_folder() -> None:
    assert person_from_path("actors/Ada/1.png") == "actors/Ada"
    with pytest.raises(DatasetError, match=r"1\.png: is not in a person's folder"):
        person_from_path("1.png", DatasetError)
