"""`sfplus pack` builds and checks packs of crops."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from collection_writers import encode, random_crop, write_folders

from sfplus.cli.pack import pack
from sfplus.datasets import pack_writer
from sfplus.datasets.crops import CropDataset, PackedCrops
from sfplus.datasets.formats import pack as packed
from sfplus.datasets.formats.pack import Pack
from sfplus.datasets.identities import assign_labels
from sfplus.errors import DatasetError
from sfplus.images import list_photos

PEOPLE = {"Ben": 3, "Ada": 4, "Cyd": 1}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "BLOCK", 3)
    monkeypatch.setattr(pack_writer, "BLOCK", 3)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_pack_has_the_crops_of_its_folder(
    tmp_path: Path, small_blocks: None, sfplus: Callable[..., SimpleNamespace]
) -> None:
    source, out = tmp_path / "crops", tmp_path / "crops.pack"
    write_folders(source, PEOPLE)
    before = files(source / "Ada")
    answer = sfplus("pack", source, out)
    assert (answer.code, answer.out) == (0, f"8 crops (12x10) of 3 people (1 with one crop), 0 failed: {out}\n")
    assert files(source / "Ada") == before
    assert sorted(tmp_path.iterdir()) == [source, out]
    _, labels, names = assign_labels(list_photos(source))
    folder = CropDataset([source / name for name in names], labels, 12, 10)
    crops = PackedCrops(out)
    assert crops.people == ["Ada", "Ben", "Cyd"]
    for indices in (np.arange(8), np.array([7, 0, 0, 3])):
        for actual, expected in zip(crops.batch(indices), folder.batch(indices), strict=True):
            np.testing.assert_array_equal(actual, expected)
            assert actual.dtype == expected.dtype
    (crop, label), (expected_crop, expected_label) = crops[5], folder[5]
    np.testing.assert_array_equal(crop, expected_crop)
    assert label == expected_label
    assert Pack(out).names == names


def test_unreadable_images_are_listed_and_skipped(
    tmp_path: Path, small_blocks: None, sfplus: Callable[..., SimpleNamespace]
) -> None:
    source, out = tmp_path / "crops", tmp_path / "crops.pack"
    write_folders(source, PEOPLE)
    (source / "Empty").mkdir()
    (source / "Ada" / "0.png").write_bytes(b"")
    (source / "Ada" / "1.png").write_bytes((source / "Ada" / "1.png").read_bytes()[:60])
    (source / "Ben" / "9.png").symlink_to("gone")
    (source / "stray.png").write_bytes(encode(random_crop(0)))
    Path(os.fsdecode(os.fsencode(source) + b"/Ben/\xff.png")).write_bytes(encode(random_crop(0)))
    answer = sfplus("pack", source, out)
    assert answer.code == 1
    assert "1 folder contains no photo and is not counted as a person, for example Empty" in answer.err
    assert answer.out.startswith("6 crops (12x10) of 3 people (1 with one crop), 5 failed")
    rows = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert [row["photo"].encode("utf-8", "replace") for row in rows] == [
        b"Ada/0.png", b"Ada/1.png", b"Ben/9.png", b"Ben/?.png", b"stray.png"
    ]  # fmt: skip
    assert {row["stage"] for row in rows} == {"pack"} and all(row["reason"] and row["remedy"] for row in rows)
    assert Pack(out).names == ["Ada/2.png", "Ada/3.png", "Ben/0.png", "Ben/1.png", "Ben/2.png", "Cyd/0.png"]
    assert sum(Pack(out).check()) == 6


def test_narrow_cuts_crops_from_112x112_to_112x96(tmp_path: Path) -> None:
    write_folders(tmp_path / "crops", {"Ada": 1, "Ben": 1}, 112, 112)
    pack(tmp_path / "crops", tmp_path / "pack", narrow=True)
    np.testing.assert_array_equal(Pack(tmp_path / "pack").pixels[1], random_crop(100, 112, 112)[:, 8:104])


def test_excluded_people_are_left_out(tmp_path: Path, sfplus: Callable[..., SimpleNamespace]) -> None:
    """People can be excluded by `sfplus pack --exclude` and by the data set for training."""
    write_folders(tmp_path / "crops", PEOPLE | {"Dan": 2})
    exclude = tmp_path / "out.txt"
    exclude.write_text("# in the test set\nBen\n\n  Nobody  \n")
    assert sfplus("pack", tmp_path / "crops", tmp_path / "a", "--exclude", exclude).code == 0
    pack(tmp_path / "crops", tmp_path / "b")
    without, excluding = PackedCrops(tmp_path / "a"), PackedCrops(tmp_path / "b", exclude=["Ben"])
    assert without.people == excluding.people == ["Ada", "Cyd", "Dan"]
    for first, second in zip(without.batch(np.arange(7)), excluding.batch(np.arange(7)), strict=True):
        np.testing.assert_array_equal(first, second)
    assert without.digest != excluding.digest != PackedCrops(tmp_path / "b").digest


def test_one_person_is_a_warning_and_cannot_be_trained_on(
    tmp_path: Path, sfplus: Callable[..., SimpleNamespace]
) -> None:
    write_folders(tmp_path / "crops", {"Ada": 1})
    answer = sfplus("pack", tmp_path / "crops", tmp_path / "pack")
    assert answer.code == 0
    assert "contains only one person" in answer.err and answer.out.startswith("1 crop (12x10) of 1 person (1 with one")
    with pytest.raises(DatasetError, match="contains crops of 1 person; training needs at least two people"):
        PackedCrops(tmp_path / "pack")


def test_check_names_the_crop_with_a_flipped_bit(
    tmp_path: Path, small_blocks: None, sfplus: Callable[..., SimpleNamespace]
) -> None:
    write_folders(tmp_path / "crops", PEOPLE)
    out = tmp_path / "pack"
    pack(tmp_path / "crops", out)
    assert sfplus("pack", "--check", out).out.endswith(f"{out}: intact, 8 crops of 3 people\n")
    data = bytearray((out / "crops.u8").read_bytes())
    data[5 * 360 + 17] ^= 4
    (out / "crops.u8").write_bytes(data)
    message = "crop 5 (counted from 0; Ben/1.png) in block 1 was changed: its checksum differs; make it again"
    answer = sfplus("pack", "--check", out)
    assert answer.code == 1 and message in answer.err
    crops = PackedCrops(out)
    crops.batch(np.array([4, 6]))
    with pytest.raises(DatasetError) as error:
        crops.batch(np.array([0, 5]))
    assert message in str(error.value)


@pytest.mark.parametrize("size", ["112", "0x5", "axb", "-1x4"])
def test_invalid_sizes_are_usage_errors(tmp_path: Path, size: str, sfplus: Callable[..., SimpleNamespace]) -> None:
    assert sfplus("pack", tmp_path, tmp_path / "out", f"--size={size}").code == 2


def test_out_is_required(tmp_path: Path, sfplus: Callable[..., SimpleNamespace]) -> None:
    assert sfplus("pack", tmp_path).code == 2


def test_people_of_nested_folders_are_said_before_any_work_and_chosen(
    tmp_path: Path, sfplus: Callable[..., SimpleNamespace]
) -> None:
    source, out = tmp_path / "crops", tmp_path / "pack"
    write_folders(source, {"train/Ada": 2, "train/Ben": 1, "val/Ada": 1})
    (source / "stray.png").write_bytes(encode(random_crop(0)))
    answer = sfplus("pack", source, out)
    lines = answer.err.splitlines()
    assert answer.code == 1 and lines[0] == f"{source}: 4 photos of 3 people" and Pack(out).people[0] == "train/Ada"
    assert lines[1] == f"warning: {source}: these photos are in no person's folder: stray.png; they are left out"
    assert "counts as a person: train/Ada, train/Ben, val/Ada; if that is wrong, set --people first-fo" in lines[2]
    (source / "stray.png").unlink()
    answer = sfplus("pack", source, tmp_path / "last", "--people", "last-folder")
    assert answer.code == 0 and "4 photos of 2 people" in answer.err and "warning" not in answer.err
    assert Pack(tmp_path / "last").people == ["Ada", "Ben"]
    assert Pack(tmp_path / "last").names == ["train/Ada/0.png", "train/Ada/1.png", "val/Ada/0.png", "train/Ben/0.png"]
    answer = sfplus("pack", source, tmp_path / "last")
    assert answer.code == 2 and "with other options" in answer.err
    answer = sfplus("pack", tmp_path / "last", tmp_path / "again", "--people", "last-folder")
    assert answer.code == 2 and "has no folders of people" in answer.err and not (tmp_path / "again").exists()
    assert sfplus("pack", source, tmp_path / "x", "--people", "folder").code == 2
