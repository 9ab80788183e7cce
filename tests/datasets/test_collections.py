from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from collection_writers import encode, random_crop, write_folders, write_insightface

from sfplus.datasets import formats
from sfplus.datasets.collections import open_collection, stat_digest
from sfplus.datasets.formats import collection_formats
from sfplus.errors import DatasetError, UsageError

IMAGES = [encode(random_crop(seed)) for seed in range(4)]


def test_formats_are_tried_from_the_most_specific_to_the_most_general() -> None:
    kinds = [collection_format.kind for collection_format in collection_formats()]
    assert kinds == ["pack", "RecordIO", "shards", "Parquet", "folders"]


@pytest.mark.parametrize(("name", "reason"), [("missing", "does not exist"), ("notes.txt", "is not a collection")])
def test_other_paths_are_refused(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(UsageError, match=rf"{name}: {reason}"):
        open_collection(tmp_path / name)


def test_an_empty_folder_is_refused_with_all_formats(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"give a pack, a \.rec file, \.tar shards, \.parquet files, a folder per"):
        open_collection(tmp_path)


def test_a_folder_with_one_rec_file_is_opened_and_two_are_refused(tmp_path: Path) -> None:
    write_insightface(tmp_path / "train.rec", [IMAGES[:2], IMAGES[2:]])
    assert open_collection(tmp_path).kind == "RecordIO"
    write_insightface(tmp_path / "other.rec", [IMAGES])
    with pytest.raises(DatasetError, match=r"contains 2 \.rec files; give one of them"):
        open_collection(tmp_path)


def test_tables_next_to_crops_do_not_hide_them(tmp_path: Path) -> None:
    write_folders(tmp_path, {"Ada": 2})
    pq.write_table(pa.table({"photo": ["a"]}), tmp_path / "faces.parquet")  # as sfplus align writes it
    collection = open_collection(tmp_path)
    assert collection.kind == "folders" and len(collection) == 2
    (tmp_path / "data").mkdir()
    table = pa.table({"image": IMAGES, "label": [0, 1, 2, 3]})
    pq.write_table(table, tmp_path / "data" / "train-00000-of-00001.parquet")
    (tmp_path / "faces.parquet").unlink()
    assert open_collection(tmp_path).kind == "Parquet"  # a data set with images for its readme


def test_stat_digest_depends_on_the_files_and_not_on_the_spelling_of_the_path(tmp_path: Path) -> None:
    write_folders(tmp_path / "crops", {"Ada": 2, "Ben": 1})
    (tmp_path / "link").symlink_to("crops")
    digest = stat_digest(open_collection(tmp_path / "crops"))
    assert stat_digest(open_collection(tmp_path / "link")) == digest
    assert stat_digest(open_collection(tmp_path / "crops" / ".." / "crops")) == digest
    os.utime(tmp_path / "crops" / "Ada" / "0.png", (1, 1))
    changed = stat_digest(open_collection(tmp_path / "crops"))
    (tmp_path / "crops" / "Ben" / "0.png").rename(tmp_path / "crops" / "Ben" / "1.png")
    assert len({digest, changed, stat_digest(open_collection(tmp_path / "crops"))}) == 3


TOY_FORMAT = """
from sfplus.datasets.records import PhotoCollection, Record

class Toy(PhotoCollection):
    kind, accepts = "toy", "a .toy file"

    @classmethod
    def open(cls, path, split):
        return cls() if path.suffix == ".toy" else None

    def files(self):
        return []

    def __len__(self):
        return 1

    def records(self, start=0):
        yield Record("1", "Ada", b"")

FORMAT = Toy
"""


@pytest.fixture
def toy_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "formats").mkdir()
    (tmp_path / "formats" / "toy.py").write_text(TOY_FORMAT)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path / "formats")])
    collection_formats.cache_clear()
    yield
    collection_formats.cache_clear()
    sys.modules.pop("sfplus.datasets.formats.toy", None)


def test_a_new_module_is_a_new_format(tmp_path: Path, toy_format: None) -> None:
    (tmp_path / "people.toy").touch()
    assert [record.person for record in open_collection(tmp_path / "people.toy").records()] == ["Ada"]
    with pytest.raises(UsageError, match=r"give .*a \.toy file"):
        open_collection(tmp_path / "formats" / "toy.py")
