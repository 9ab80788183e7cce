from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from collection_writers import write_folders
from hostile_files import WRONG_VALUES, damaged, not_utf8, read_or_refuse
from slow_cases import partly_slow, slow

from sfplus.cli.pack import pack
from sfplus.datasets.crops import PackedCrops
from sfplus.datasets.formats import pack as packed
from sfplus.datasets.formats.pack import Pack
from sfplus.errors import DatasetError

PEOPLE = {"Ben": 3, "Ada": 4, "Cyd": 1}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crops.u8", r"crops\.u8: has 2,870 bytes, not 2,880"),
        ("index.parquet", r"index\.parquet: was changed"),
        ("people.parquet", r"people\.parquet: was changed"),
        ("manifest.json", r"manifest\.json: is damaged"),
    ],
)
def test_truncated_and_missing_files_are_named(tmp_path: Path, name: str, message: str) -> None:
    write_folders(tmp_path / "crops", PEOPLE)
    pack(tmp_path / "crops", tmp_path / "pack")
    path = tmp_path / "pack" / name
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DatasetError, match=message):
        Pack(tmp_path / "pack")
    path.unlink()
    with pytest.raises(DatasetError, match=r"is missing; make it again|is not a finished pack"):
        Pack(tmp_path / "pack")


def test_labels_beyond_the_people_are_refused(tmp_path: Path) -> None:
    """The pack was written by hand with correct digests."""
    write_folders(tmp_path / "crops", PEOPLE)
    pack(tmp_path / "crops", tmp_path / "pack")
    manifest = json.loads((tmp_path / "pack" / "manifest.json").read_text())
    index = tmp_path / "pack" / "index.parquet"
    table = pq.read_table(index)
    pq.write_table(table.set_column(1, "label", pa.array([0, 1, 2, 3] * 2)), index)
    manifest["tables"]["index.parquet"] = packed.file_digest(index)
    manifest["content"] = packed.content_digest(manifest["sha256"], manifest["tables"])
    (tmp_path / "pack" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DatasetError, match="has labels beyond its 3 people"):
        Pack(tmp_path / "pack")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack, of which tests change copies."""
    folder = tmp_path_factory.mktemp("pack")
    write_folders(folder / "crops", PEOPLE)
    pack(folder / "crops", folder / "pack")
    return folder / "pack"


def use(folder: Path) -> None:
    """Use a pack as all its readers do."""
    opened = Pack(folder)
    list(opened.check())
    assert all(isinstance(record.image, np.ndarray) for record in packed.PackCollection(folder).records())
    crops = PackedCrops(folder, ["Ada"], least=1)
    crops.batch(np.arange(len(crops)))
    assert crops.digest


def sign(folder: Path, manifest: dict[str, object], tables: bool = True) -> None:
    """Write a manifest with the digests of the tables as they are and of itself, as somebody may who changes them."""
    if tables:
        manifest["tables"] = {name: packed.file_digest(folder / name) for name in (packed.INDEX, packed.PEOPLE)}
    with contextlib.suppress(TypeError, AttributeError, ValueError):
        manifest["content"] = packed.content_digest(manifest["sha256"], manifest["tables"])  # type: ignore[arg-type]
    (folder / "manifest.json").write_text(json.dumps(manifest))


KEYS = ("format", "height", "width", "crops", "alone", "sha256", "tables", "content", "state", "people", "source")


@pytest.mark.parametrize("key", partly_slow(KEYS, ["people", "source"]))
def test_any_value_in_the_manifest_is_one_line(tmp_path: Path, whole: Path, key: str) -> None:
    shutil.copytree(whole, tmp_path / "pack")
    manifest = json.loads((whole / "manifest.json").read_text())
    refused = 0
    for value in WRONG_VALUES:
        for signed in (True, False):
            changed = manifest | {key: value}
            if signed and key != "content":
                sign(tmp_path / "pack", changed, tables=False)
            else:
                (tmp_path / "pack" / "manifest.json").write_text(json.dumps(changed))
            refused += read_or_refuse(lambda: use(tmp_path / "pack"))
    del manifest[key]
    (tmp_path / "pack" / "manifest.json").write_text(json.dumps(manifest))
    unused = key in ("people", "source")  # nothing reads them
    assert read_or_refuse(lambda: use(tmp_path / "pack")) != unused and (
        refused > 30 or unused or key in ("state", "alone")
    )


@pytest.mark.parametrize(
    "name", ["manifest.json", "index.parquet", "people.parquet", "crops.u8", slow("failures.jsonl")]
)
def test_damaged_files_are_one_line(tmp_path: Path, whole: Path, name: str, sfplus: Callable) -> None:
    folder = tmp_path / "pack"
    shutil.copytree(whole, folder)
    manifest, data = json.loads((whole / "manifest.json").read_text()), (whole / name).read_bytes() or b"{}"
    for number, case in enumerate(damaged(data, 50, 20)):
        (folder / name).write_bytes(case)
        if number % 2 and name.endswith("parquet"):
            sign(folder, dict(manifest))
        read_or_refuse(lambda: use(folder))
    for case in (b"[1]\n", b"\xff\n", b"{}\n", b'{"photo": 1}\n') if name == "failures.jsonl" else ():
        (folder / name).write_bytes(case)
        assert "Traceback" not in sfplus("pack", whole.parent / "crops", folder).err
    (folder / name).unlink()
    (folder / name).mkdir()
    assert read_or_refuse(lambda: use(folder)) or name == "failures.jsonl"


COLUMNS = {
    "nothing": pa.nulls(8), "empty": pa.nulls(8, pa.int64()), "one empty": pa.array([None, *[0] * 7]),
    "texts": pa.array(["x"] * 8), "floats": pa.array([1.5] * 8), "lists": pa.array([[1]] * 8),
    "booleans": pa.array([True] * 8), "negative": pa.array([-1] * 8), "huge": pa.array([2**64 - 1] * 8, pa.uint64()),
    "bytes": pa.array([b"x"] * 8), "structures": pa.array([{"a": 1}] * 8),
    "times": pa.array([1] * 8, pa.timestamp("s")),
    "not UTF-8": not_utf8(8), "too large": pa.array([10**6] * 8), "NUL": pa.array(["a\0"] * 8),
}  # fmt: skip


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("column", ["name", "label", "crc32"])
def test_columns_of_any_type_are_one_line(tmp_path: Path, whole: Path, column: str, kind: str) -> None:
    folder = tmp_path / "pack"
    shutil.copytree(whole, folder)
    table = pq.read_table(whole / "index.parquet")
    pq.write_table(table.set_column(table.column_names.index(column), column, COLUMNS[kind]), folder / "index.parquet")
    sign(folder, json.loads((whole / "manifest.json").read_text()))
    assert read_or_refuse(lambda: use(folder)) or (column, kind) in (("name", "texts"), ("name", "NUL"))


@pytest.mark.parametrize(
    ("people", "refused"),
    [([1, 2, 3], True), ([None] * 3, True), ([["a"]] * 3, True), ([b"a", b"b", b"c"], True), (["a"] * 3, True),
     (["a", "b"], True), ([], True), (not_utf8(3), True), (["Ada\x1b[31m", "b\n", "c\0"], False)],
)  # fmt: skip
def test_people_of_any_type_are_one_line(tmp_path: Path, whole: Path, people: object, refused: bool) -> None:
    folder = tmp_path / "pack"
    shutil.copytree(whole, folder)
    pq.write_table(pa.table({"person": people}), folder / "people.parquet")
    sign(folder, json.loads((whole / "manifest.json").read_text()))
    assert read_or_refuse(lambda: use(folder)) == refused
