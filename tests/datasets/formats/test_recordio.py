from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from collection_writers import (
    MAGIC,
    encode,
    random_crop,
    recordio_payload,
    recordio_record,
    write_insightface,
    write_rec,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from sfplus.datasets.formats.recordio import RecordIO
from sfplus.errors import DatasetError, PhotoError

IMAGES = [encode(random_crop(seed)) for seed in range(5)]


def contents(path: Path) -> list[tuple[str, bytes]]:
    return [(record.person, record.image) for record in RecordIO(path).records() if isinstance(record.image, bytes)]


@pytest.mark.parametrize("index", [True, False])
def test_reads_a_training_set_of_insightface(tmp_path: Path, index: bool) -> None:
    write_insightface(tmp_path / "train.rec", [IMAGES[:2], IMAGES[2:3], IMAGES[3:]], index)
    collection = RecordIO(tmp_path / "train.rec")
    records = list(collection.records())
    assert len(collection) == len(records) == 5
    assert [record.person for record in records] == ["0000000", "0000000", "0000001", "0000002", "0000002"]
    assert [record.name for record in records][2] == "0000001/3"
    for seed, record in enumerate(records):
        np.testing.assert_array_equal(record.decode(), random_crop(seed))
    assert [record.name for record in collection.records(3)] == [record.name for record in records[3:]]


def test_records_of_the_published_format_are_read(tmp_path: Path) -> None:
    """Records written by hand from recordio.h: one whole, one split at the magic word."""
    image = b"1234" + MAGIC + b"xy"
    header = "00000000" + "0000e040" + 16 * "00"  # flag 0, label 7.0, no ids
    whole = "0a23d7ce" + "1b000000" + header + b"abc".hex() + "00"
    parts = "0a23d7ce" + "1c000020" + header + b"1234".hex() + "0a23d7ce" + "02000060" + b"xy".hex() + "0000"
    (tmp_path / "by hand.rec").write_bytes(bytes.fromhex(whole + parts))
    assert contents(tmp_path / "by hand.rec") == [("0000007", b"abc"), ("0000007", image)]
    assert recordio_record(recordio_payload(7, image)).hex() == parts  # the writer of these tests


pieces = st.one_of(st.just(MAGIC), st.binary(max_size=9), st.just(b"\0\0\0"))


@given(st.lists(st.lists(pieces, max_size=6).map(b"".join), min_size=1, max_size=5), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_payload_is_read_unchanged(
    tmp_path_factory: pytest.TempPathFactory, images: list[bytes], index: bool
) -> None:
    path = tmp_path_factory.mktemp("rec") / "any.rec"
    write_rec(path, [recordio_payload(label, data) for label, data in enumerate(images)], index)
    assert contents(path) == [(f"{label:07d}", data) for label, data in enumerate(images)]


def damaged(draw: st.DrawFn) -> tuple[bytes, bytes | None]:
    """Draw a small file and its index, both with bytes changed or cut off, or arbitrary bytes."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=80)), draw(st.none() | st.binary(max_size=40))
    parts = [
        recordio_record(recordio_payload(label, draw(st.lists(pieces, max_size=3).map(b"".join)))) for label in range(3)
    ]
    parts[0] = recordio_record(recordio_payload([3.0, 3.0]))
    places = np.cumsum([0, *map(len, parts)])[:-1]
    files = [b"".join(parts), "".join(f"{i}\t{at}\n" for i, at in enumerate(places)).encode()]
    for number in range(2):
        data = bytearray(files[number])
        for _ in range(draw(st.integers(0, 3))):
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
        files[number] = bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(data)
    return files[0], files[1] if draw(st.booleans()) else None


@pytest.mark.slow
@given(st.composite(damaged)())
@settings(max_examples=400, deadline=None)
def test_damage_is_one_error_or_one_lost_image(
    tmp_path_factory: pytest.TempPathFactory, files: tuple[bytes, bytes | None]
) -> None:
    path = tmp_path_factory.mktemp("rec") / "damaged.rec"
    path.write_bytes(files[0])
    if files[1] is not None:
        path.with_suffix(".idx").write_bytes(files[1])
    try:
        records = list(RecordIO(path).records())
    except DatasetError as error:
        assert "damaged" in str(error) and "\n" not in str(error)
        return
    assert all(isinstance(record.image, bytes | PhotoError) for record in records)
    assert sum(len(record.image) for record in records if isinstance(record.image, bytes)) <= len(records) * len(
        files[0]
    )


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("lost", [1, 30, 400])
def test_truncated_file_is_refused(tmp_path: Path, index: bool, lost: int) -> None:
    path = tmp_path / "train.rec"
    write_insightface(path, [IMAGES], index)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(DatasetError, match=r"train\.rec: is cut short.*; get "):
        RecordIO(path)


def test_damaged_record_loses_one_image(tmp_path: Path) -> None:
    path = tmp_path / "train.rec"
    write_insightface(path, [IMAGES])
    data = path.read_bytes()
    place = int(path.with_suffix(".idx").read_text().splitlines()[2].split("\t")[1])
    path.write_bytes(data[:place] + b"\0" + data[place + 1 :])
    errors = [record.image for record in RecordIO(path).records() if isinstance(record.image, PhotoError)]
    assert [str(error) for error in errors] == [
        f"has no record at byte {place:,}; get the file again; it must be MXNet RecordIO, "
        "as insightface packs its training sets"
    ]
    assert len(contents(path)) == 4
    path.with_suffix(".idx").unlink()  # then the place of the next record is unknown
    with pytest.raises(DatasetError, match="has no record at byte"):
        RecordIO(path)


@pytest.mark.parametrize("label", [-1.0, 0.5, float("nan"), float("inf"), 2.0**31])
def test_invalid_label_loses_one_image(tmp_path: Path, label: float) -> None:
    write_rec(tmp_path / "a.rec", [recordio_payload(0, IMAGES[0]), recordio_payload(label, IMAGES[1])])
    _, invalid = RecordIO(tmp_path / "a.rec").records()
    with pytest.raises(PhotoError, match=r"record 1: its label is .*; labels are integers from 0 on"):
        invalid.decode()


def test_missing_labels_lose_one_image(tmp_path: Path) -> None:
    bad = struct.pack("<IfQQ", 9, 0, 0, 0) + b"\0" * 8
    write_rec(tmp_path / "a.rec", [recordio_payload(0, IMAGES[0]), bad])
    _, invalid = RecordIO(tmp_path / "a.rec").records()
    with pytest.raises(PhotoError, match="announces 9 labels"):
        invalid.decode()


def test_first_of_several_labels_is_used(tmp_path: Path) -> None:
    write_rec(tmp_path / "a.rec", [recordio_payload(4, IMAGES[0]), recordio_payload([5.0, 1.0], IMAGES[1])])
    assert contents(tmp_path / "a.rec") == [("0000004", IMAGES[0]), ("0000005", IMAGES[1])]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"train\.idx: is not an index"),
        ("a\tb\n", r"train\.idx: is not an index"),
        ("0 0\n", r"train\.idx: is not an index"),
        ("0\t0\n0\t0\n", r"train\.idx: lists a record twice"),
        ("0\t0\n1\t0\n", r"train\.idx: lists a record twice"),
        ("0\t-4\n", r"is cut short: record 0 begins at byte -4"),
        ("0\t0\n1\t99999\n", r"is cut short: record 1 begins at byte 99,999 of"),
        ("0\t99999999999999999999\n", r"train\.idx: is not an index"),
    ],
)
def test_invalid_index_is_refused(tmp_path: Path, text: str, message: str) -> None:
    write_insightface(tmp_path / "train.rec", [IMAGES])
    (tmp_path / "train.idx").write_text(text)
    with pytest.raises(DatasetError, match=message):
        RecordIO(tmp_path / "train.rec")


def test_header_of_another_file_is_refused(tmp_path: Path) -> None:
    write_rec(tmp_path / "a.rec", [recordio_payload([99.0, 100.0]), recordio_payload(0, IMAGES[0])])
    with pytest.raises(DatasetError, match="announces 98 images"):
        RecordIO(tmp_path / "a.rec")
