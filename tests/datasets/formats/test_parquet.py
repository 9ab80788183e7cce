from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from collection_writers import encode, random_crop
from hostile_files import damaged, not_utf8, read_or_refuse

from sfplus.datasets.collections import open_collection
from sfplus.errors import DatasetError, PhotoError

IMAGES = [encode(random_crop(seed)) for seed in range(4)]


def write(path: Path, columns: dict[str, object], rows: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=rows)
    return path


def test_agrees_with_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["Zoe", "Ada"]), "age": datasets.Value("int32")}
    )
    rows = {
        "image": [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(IMAGES)],
        "label": [1, 0, 1, 1], "age": [1, 2, 3, 4],
    }  # fmt: skip
    dataset = datasets.Dataset.from_dict(rows, features=features)
    (tmp_path / "data").mkdir()
    for shard in range(2):
        part = dataset.shard(2, shard, contiguous=True)
        part.to_parquet(str(tmp_path / "data" / f"train-{shard:05d}-of-00002.parquet"))
    collection = open_collection(tmp_path)
    records = list(collection.records())
    assert [record.person for record in records] == ["Ada", "Zoe", "Ada", "Ada"]
    assert records[3].name == "train-00001-of-00002/1/3.png"
    for record, row in zip(records, dataset, strict=True):
        np.testing.assert_array_equal(record.decode(), np.asarray(row["image"]))


@pytest.mark.parametrize("labels", [["Ada", "Ben", " Ada ", "Cyd"], [3, 4, 3, 5], [3.0, 4.0, 3.0, 5.0]])
@pytest.mark.parametrize("large", [False, True])
def test_plain_columns_are_read_from_any_start(tmp_path: Path, labels: list[object], large: bool) -> None:
    images = pa.array(IMAGES, pa.large_binary() if large else pa.binary())
    path = write(tmp_path / "a.parquet", {"size": [1, 2, 3, 4], "identity": labels, "jpg": images})
    collection = open_collection(path)
    expected = {str: ["Ada", "Ben", "Ada", "Cyd"]}.get(type(labels[0]), ["0000003", "0000004", "0000003", "0000005"])
    for start in range(5):
        records = list(collection.records(start))
        assert [record.person for record in records] == expected[start:]
        assert [record.image for record in records] == IMAGES[start:]


def test_invalid_row_loses_one_image(tmp_path: Path) -> None:
    images = [IMAGES[0], None, IMAGES[1], b"", IMAGES[2], IMAGES[3]]
    path = write(tmp_path / "a.parquet", {"image": images, "label": [0, 1, -1, 2, None, 1]})
    records = list(open_collection(path).records())
    errors = [str(record.image) for record in records if isinstance(record.image, PhotoError)]
    assert errors == [
        "a/1: has no bytes", "a/2: its label is -1; labels are integers from 0 on", "a/3: has no bytes",
        "a/4: has no label",
    ]  # fmt: skip
    assert [record.person for record in records] == ["0000000", "", "", "", "", "0000001"]


@pytest.mark.parametrize("struct", [False, True])
def test_repeated_large_cells_use_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, struct: bool) -> None:
    """A small file stores 64 equal cells of 1 MB once; only a few are decompressed at a time."""
    monkeypatch.setenv("SFPLUS_MAX_ENCODED_IMAGE_BYTES", str(2 << 20))
    data: list[object] = [bytes(1 << 20)] * 64
    image = pa.array([{"bytes": cell, "path": None} for cell in data]) if struct else pa.array(data)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": image, "label": [0] * 64}), path, compression="zstd",
                   dictionary_pagesize_limit=1 << 30)  # fmt: skip
    assert path.stat().st_size < 10_000
    before, peak, sizes = pa.total_allocated_bytes(), 0, []
    for record in open_collection(path).records():
        peak = max(peak, pa.total_allocated_bytes() - before)
        assert isinstance(record.image, bytes)
        sizes.append(len(record.image))
    assert sizes == [1 << 20] * 64
    assert peak < 16 << 20


@pytest.mark.parametrize("struct", [False, True])
def test_too_large_cell_loses_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, struct: bool) -> None:
    monkeypatch.setenv("SFPLUS_MAX_ENCODED_IMAGE_BYTES", "2000")
    cells = [IMAGES[0], np.random.default_rng(0).bytes(2001), IMAGES[1]]
    image = pa.array([{"bytes": cell, "path": None} for cell in cells] if struct else cells)
    path = write(tmp_path / "a.parquet", {"image": image, "label": [0, 1, 2]}, 3)
    first, large, last = open_collection(path).records()
    assert [first.image, last.image] == IMAGES[:2]
    with pytest.raises(PhotoError, match="has 2,001 bytes, more than the limit of 2,000"):
        large.decode()


def test_group_that_expands_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfplus.io.limits._SMALL", 1 << 20)
    path = tmp_path / "a.parquet"
    cells = [bytes([i]) * (1 << 16) for i in range(17)]
    pq.write_table(pa.table({"image": cells, "label": [0] * 17}), path, compression="zstd", use_dictionary=False)
    with pytest.raises(DatasetError, match=r"a\.parquet: .* bytes expand to 1,1.*SFPLUS_MAX_EXPANSION="):
        list(open_collection(path).records())


def test_paths_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(IMAGES[0])
    image = [{"bytes": None, "path": str(tmp_path / "secret.png")}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    path = write(tmp_path / "a.parquet", {"image": pa.array(image, kind), "label": [0]})
    (record,) = open_collection(path).records()
    with pytest.raises(PhotoError, match="has no bytes, only a path"):
        record.decode()


def test_label_beyond_the_names_loses_one_image(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Value("binary"), "label": datasets.ClassLabel(names=["Ada", "Ben"])}
    )
    schema = features.arrow_schema
    table = pa.table({"image": IMAGES[:3], "label": [1, 2, 0]}).cast(schema)
    pq.write_table(table, tmp_path / "a.parquet")
    first, invalid, last = open_collection(tmp_path / "a.parquet").records()
    assert (first.person, last.person) == ("Ben", "Ada")
    with pytest.raises(PhotoError, match="its label 2 is beyond the 2 names"):
        invalid.decode()


@pytest.mark.parametrize("columns", [{"label": [1]}, {"image": [b"a"]}, {"image": ["a"], "label": [1]}])
def test_other_columns_are_refused(tmp_path: Path, columns: dict[str, list[object]]) -> None:
    write(tmp_path / "a.parquet", columns)
    with pytest.raises(DatasetError, match=r"a\.parquet: has the columns .*; it needs a column of images"):
        open_collection(tmp_path / "a.parquet")


def test_empty_table_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())})
    with pytest.raises(DatasetError, match="contains no row"):
        open_collection(tmp_path / "a.parquet")


@pytest.mark.parametrize("change", ["cut", "garbage", "middle"])
def test_damaged_file_is_refused(tmp_path: Path, change: str) -> None:
    path = write(tmp_path / "a.parquet", {"image": IMAGES, "label": [0, 1, 2, 3]})
    data = path.read_bytes()
    middle = data[:4] + bytes(b ^ 255 for b in data[4:30]) + data[30:]
    path.write_bytes({"cut": data[:-30], "garbage": b"PAR1" + bytes(50) + b"PAR1", "middle": middle}[change])
    with pytest.raises(DatasetError, match=r"a\.parquet: is damaged .*; download it again"):
        list(open_collection(path).records())


def test_damage_is_one_line_or_lost_images(tmp_path: Path) -> None:
    images = [{"bytes": data, "path": "a.png"} for data in IMAGES]
    for number, compression in enumerate(("none", "zstd")):
        path = tmp_path / f"{compression}.parquet"
        pq.write_table(pa.table({"image": images, "label": [0, 1, 0, 1]}), path, compression=compression)
        for data in damaged(path.read_bytes(), 120, 40, number):
            path.write_bytes(data)
            read_or_refuse(lambda path=path: list(open_collection(path).records()))


LABELS = {
    "none": pa.nulls(4, pa.int64()), "not a number": [float("nan")] * 4, "infinite": [float("inf")] * 4,
    "lists": [[1]] * 4, "bytes": [b"a"] * 4, "times": pa.array([2**60] * 4, pa.timestamp("ns")),
    "durations": pa.array([2**60] * 4, pa.duration("ns")), "dates": pa.array([2**30] * 4, pa.date32()),
    "decimals": pa.array([1] * 4, pa.decimal128(10)), "large": pa.array([2**64 - 1] * 4, pa.uint64()),
    "not UTF-8": not_utf8(4), "controls": ["a\x1b[31m\n"] * 4, "NUL": ["a\0b"] * 4,
    "categories": pa.array(["a"] * 4).dictionary_encode(), "nothing": pa.nulls(4),
}  # fmt: skip


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_type_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "a.parquet", {"image": IMAGES, "label": LABELS[kind]})
    records = []
    refused = read_or_refuse(lambda: records.extend(open_collection(path).records()))
    usable = sum(isinstance(record.image, bytes) for record in records)
    assert refused or usable == (4 if kind == "categories" else 0)


@pytest.mark.parametrize(
    "metadata",
    ["[]", "1", '{"info": 1}', '{"info": {"features": {"label": 1}}}', "[" * 100_000, "9" * 5000]
    + [f'{{"info": {{"features": {{"label": {{"names": {names}}}}}}}}}' for names in ("5", '"ab"', '{"a": 1}')]
    + ['{"info": {"features": {"label": {"names": ["\\ud800", "b\\u0000", "\\u001b[31m", ""]}}}}'],
)
def test_names_of_labels_are_checked(tmp_path: Path, metadata: str) -> None:
    table = pa.table({"image": IMAGES, "label": [0, 1, 2, 3]}).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "a.parquet")
    for record in open_collection(tmp_path / "a.parquet").records():
        assert isinstance(record.image, PhotoError) or record.person.isprintable()


def test_columns_of_one_name_and_texts_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    images, labels = pa.array(IMAGES), pa.array([0] * 4)
    for arrays, names in (
        ([images, images, labels], ["i", "i", "label"]),
        ([images, labels, labels], ["i", *["id"] * 2]),
    ):
        pq.write_table(pa.Table.from_arrays(arrays, names), tmp_path / "a.parquet")
        with pytest.raises(DatasetError, match="two columns of the same name"):
            open_collection(tmp_path / "a.parquet")
    paths = pa.StructArray.from_arrays([images, not_utf8(4)], ["bytes", "path"])
    pq.write_table(pa.table({"image": paths, "label": labels}), tmp_path / "a.parquet")
    with pytest.raises(DatasetError, match="is damaged"):
        list(open_collection(tmp_path / "a.parquet").records())


def test_millions_of_rows_in_few_bytes_are_refused(tmp_path: Path) -> None:
    empty = {"image": pa.nulls(2_000_000, pa.binary()), "label": pa.nulls(2_000_000, pa.int64())}
    pq.write_table(pa.table(empty), tmp_path / "a.parquet", compression="zstd")
    with pytest.raises(DatasetError, match="contains no images: it has 2,000,000 rows in"):
        open_collection(tmp_path / "a.parquet")
