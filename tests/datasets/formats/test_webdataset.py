from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from collection_writers import encode, random_crop

from sfplus.datasets.collections import open_collection
from sfplus.datasets.formats.webdataset import WebDataset
from sfplus.errors import DatasetError, PhotoError


def write_tar(path: Path, files: list[tuple[str, bytes]], **kinds: bytes) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, kind in kinds.items():
            member = tarfile.TarInfo(f"{name}.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)


def people(path: Path) -> list[str]:
    return [record.person for record in WebDataset(path, [path]).records()]


def test_agrees_with_webdataset(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    for shard in range(2):
        with wds.TarWriter(str(tmp_path / f"faces-{shard:06d}.tar")) as writer:
            for number in range(3):
                seed = 3 * shard + number
                sample = {"__key__": f"people/{seed:04d}", "png": encode(random_crop(seed)), "cls": seed % 2}
                writer.write(sample)
    shards = sorted(tmp_path.glob("*.tar"))
    samples = list(wds.WebDataset([str(path) for path in shards], shardshuffle=False, empty_check=False))
    collection = open_collection(tmp_path)
    records = list(collection.records())
    assert len(collection) == len(records) == len(samples) == 6
    for record, sample in zip(records, samples, strict=True):
        assert record.name == sample["__key__"] + ".png"
        assert record.person == f"{int(sample['cls']):07d}"
        assert record.image == sample["png"]
    for start in range(7):
        assert [record.name for record in collection.records(start)] == [record.name for record in records[start:]]


@pytest.mark.parametrize(
    ("name", "label", "person"),
    [
        ("a/1.cls", b"12", "0000012"),
        ("a/1.cls", b" Ada Lovelace\n", "Ada Lovelace"),
        ("a/1.json", json.dumps({"width": 3, "label": 4}).encode(), "0000004"),
        ("a/1.json", json.dumps({"identity": "Ada"}).encode(), "Ada"),
        ("a/1.json", json.dumps({"width": 3}).encode(), "a"),
        ("a/1.txt", b"Ada", "Ada"),
        ("a/1.seg", b"Ada", "a"),
    ],
)
def test_label_is_read_from_cls_json_txt_or_folder(tmp_path: Path, name: str, label: bytes, person: str) -> None:
    write_tar(tmp_path / "a.tar", [("a/1.PNG", encode(random_crop(0))), (name, label)])
    assert people(tmp_path / "a.tar") == [person]


@pytest.mark.parametrize(
    ("name", "label", "message"),
    [
        ("1.cls", b"-3", "its label is -3"),
        ("1.cls", b"9" * 400, "its label is '9{30}'"),
        ("1.cls", b"", "has no label"),
        ("1.cls", b"\xff", "cannot be read"),
        ("1.json", b"{", "cannot be read"),
        ("1.json", b"[" * 100_000, "cannot be read"),
        ("1.json", b"3", "has no label"),
        ("1.txt", b"a caption\nof two lines", "its label is"),
        ("1.cls", bytes((1 << 20) + 1), "bytes"),
    ],
)
def test_invalid_label_loses_one_image(tmp_path: Path, name: str, label: bytes, message: str) -> None:
    image = encode(random_crop(0))
    write_tar(tmp_path / "a.tar", [("1.png", image), (name, label), ("b/2.png", image)])
    invalid, valid = WebDataset(tmp_path, [tmp_path / "a.tar"]).records()
    with pytest.raises(PhotoError, match=message):
        invalid.decode()
    np.testing.assert_array_equal(valid.decode(), random_crop(0))


def test_names_and_links_cannot_point_outside(tmp_path: Path) -> None:
    """Names are used as text, only regular files are read, and nothing is written."""
    image = encode(random_crop(0))
    write_tar(
        tmp_path / "a.tar",
        [("../../evil/1.png", image), ("/etc/2.png", image), ("c/.hidden.png", image)],
        link=tarfile.SYMTYPE, hard=tarfile.LNKTYPE, device=tarfile.CHRTYPE, pipe=tarfile.FIFOTYPE,
    )  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    assert people(tmp_path / "a.tar") == ["../../evil", "etc"]
    assert sorted(tmp_path.rglob("*")) == before


def test_code_in_a_shard_is_not_run(tmp_path: Path) -> None:
    code = b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
    write_tar(tmp_path / "a.tar", [("a/1.png", encode(random_crop(0))), ("a/1.pyd", code), ("a/1.pkl", code)])
    assert people(tmp_path / "a.tar") == ["a"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("lost", [1, 700, 10_000])
def test_truncated_file_is_refused(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "a.tar"
    with path.open("wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for number in range(3):
            member = tarfile.TarInfo(f"a/{number}.png")
            member.size = 9000
            tar.addfile(member, io.BytesIO(bytes(9000)))
            end = file.tell()
    path.write_bytes(path.read_bytes()[: end - lost])
    with pytest.raises(DatasetError, match=r"a\.tar: is not a readable tar file"):
        WebDataset(path, [path])


@pytest.mark.parametrize("data", [b"", b"nonsense" * 200, b"\x1f\x8b" + bytes(600)])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(DatasetError, match=r"a\.tar: (is not a readable tar file|contains no image)"):
        open_collection(tmp_path / "a.tar")


def test_only_the_named_split_is_read(tmp_path: Path) -> None:
    for name in ("train-00000-of-00001", "test-00000-of-00001"):
        write_tar(tmp_path / f"{name}.tar", [(f"{name}/1.png", encode(random_crop(0)))])
    with pytest.raises(DatasetError, match="splits test, train; name one"):
        open_collection(tmp_path)
    assert [record.person for record in open_collection(tmp_path, "test").records()] == ["test-00000-of-00001"]
    with pytest.raises(DatasetError, match="none of 'dev'"):
        open_collection(tmp_path, "dev")


def test_sizes_below_zero_and_sparse_files_are_refused(tmp_path: Path) -> None:
    image = encode(random_crop(0))
    write_tar(tmp_path / "a.tar", [("a/1.png", image), ("b/2.png", image)])
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[156:157] = tarfile.GNUTYPE_SPARSE
    data[483:495] = b"%011o\0" % (7 << 30)  # its size when it is unpacked
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    (tmp_path / "a.tar").write_bytes(data)
    sparse, whole = WebDataset(tmp_path, [tmp_path / "a.tar"]).records()
    with pytest.raises(PhotoError, match="is sparse"):
        sparse.decode()
    assert whole.image == image


@pytest.mark.parametrize("name", ["p\udcff/1.png", "p/\udcff.png", "p\n/1.png", "p\x1b[31m/1.png"])
def test_names_of_any_bytes_are_read(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / "a.tar", [(name, encode(random_crop(0)))])
    (record,) = WebDataset(tmp_path, [tmp_path / "a.tar"]).records()
    assert record.name == name and record.person == name.split("/")[0]
