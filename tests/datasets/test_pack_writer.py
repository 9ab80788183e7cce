from __future__ import annotations

import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from collection_writers import encode, random_crop, write_folders, write_insightface
from PIL import Image, ImageFile

from sfplus.cli.pack import pack
from sfplus.datasets import pack_writer as module
from sfplus.datasets.formats.pack import Pack
from sfplus.errors import DatasetError, SfplusError

PEOPLE = {"Ben": 3, "Ada": 4, "Cyd": 1}


def test_all_formats_give_the_same_pack(tmp_path: Path) -> None:
    """Identity folders, RecordIO, Parquet and a pack contain the same images."""
    images = [encode(random_crop(seed)) for seed in range(5)]
    owners = [0, 0, 1, 2, 2]
    write_insightface(tmp_path / "train.rec", [images[:2], images[2:3], images[3:]])
    pq.write_table(pa.table({"image": images, "label": owners}), tmp_path / "a.parquet")
    for owner, (number, data) in zip(owners, enumerate(images), strict=True):
        (tmp_path / "folders" / f"{owner:07d}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "folders" / f"{owner:07d}" / f"{number}.png").write_bytes(data)
    sources = [tmp_path / name for name in ("folders", "train.rec", "a.parquet", "0")]
    for number, source in enumerate(sources):
        assert pack(source, tmp_path / str(number)) == 0
        opened = Pack(tmp_path / str(number))
        np.testing.assert_array_equal(opened.pixels, [random_crop(seed) for seed in range(5)])
        assert opened.labels.tolist() == owners
        assert opened.people == ["0000000", "0000001", "0000002"]
        assert list(opened.check()) == [5]


@pytest.mark.parametrize("size", [None, (20, 513)])
def test_unaligned_photos_are_refused(tmp_path: Path, size: tuple[int, int] | None) -> None:
    write_folders(tmp_path / "crops", PEOPLE, 20, 513)
    with pytest.raises(DatasetError, match=r"Ada/0\.png is 20x513 pixels, aligned crops have.*: sfplus align"):
        pack(tmp_path / "crops", tmp_path / "out", size=size)
    write_folders(tmp_path / "crops", {"Dan": 1}, 512, 512)
    assert pack(tmp_path / "crops", tmp_path / "out", size=(512, 512)) == 1
    assert len(Pack(tmp_path / "out")) == 1


def test_memory_does_not_grow_with_the_block_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 crops of 786 kB in one block, only the prefetched ones are in memory."""
    monkeypatch.setattr(module, "_THREADS", 2)
    write_folders(tmp_path / "crops", {"Ada": 50, "Ben": 50}, 2, 2)
    monkeypatch.setattr(module.Record, "decode", lambda record, _: np.zeros((512, 512, 3), np.uint8))
    tracemalloc.start()
    try:
        pack(tmp_path / "crops", tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * 786_432


def test_other_sizes_are_an_error_or_left_out(tmp_path: Path) -> None:
    write_folders(tmp_path / "crops", PEOPLE)
    (tmp_path / "crops" / "Ben" / "1.png").write_bytes(encode(random_crop(0, 9, 8)))
    with pytest.raises(DatasetError, match=r"Ben/1\.png is 9x8 pixels, the crops before it are 12x10 .* --size 12x10"):
        pack(tmp_path / "crops", tmp_path / "a")
    assert pack(tmp_path / "crops", tmp_path / "a", size=(12, 10)) == 1
    assert len(Pack(tmp_path / "a")) == 7
    assert "is 9x8 pixels, not 12x10 pixels" in (tmp_path / "a" / "failures.jsonl").read_text()
    with pytest.raises(DatasetError, match=r"none of its crops can be used; the first: Ada/0\.png is 12x10"):
        pack(tmp_path / "crops", tmp_path / "b", size=(99, 99))


def test_full_disk_is_reported_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folders(tmp_path / "crops", PEOPLE)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=2879))
    with pytest.raises(SfplusError, match=r"the pack needs 2\.9 kB, the disk has 2\.9 kB; free some space"):
        pack(tmp_path / "crops", tmp_path / "pack")


@pytest.mark.parametrize("size", [None, (20, 20)])
def test_photos_are_refused_before_they_are_decoded(
    tmp_path: Path, size: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos in the place of crops would take all memory."""
    write_folders(tmp_path / "crops", {"Ada": 1}, 20, 20)
    Image.new("RGB", (900, 700)).save(tmp_path / "crops" / "Ada" / "photo.jpg")
    decoded: list[tuple[int, int]] = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: decoded.append(image.size) or load(image))  # type: ignore[func-returns-value]
    if size:
        assert pack(tmp_path / "crops", tmp_path / "out", size=size) == 1
        assert "is 700x900 pixels, not 20x20 pixels" in (tmp_path / "out" / "failures.jsonl").read_text()
    else:
        with pytest.raises(DatasetError, match=r"Ada/photo\.jpg is 700x900 pixels, aligned crops have at most 512x512"):
            pack(tmp_path / "crops", tmp_path / "out")
    assert set(decoded) <= {(20, 20)}
