"""Features from files of every supported format, and files that are refused."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from sfplus.errors import DatasetError, PairsError
from sfplus.verification.features import read_features, rows_of

NAMES = ["Ada/Ada_0001.jpg", "Ada/Ada_0002", "./Bob/Bob_0001.PNG", "St. Ives/x.y"]
PLAIN = ["Ada/Ada_0001", "Ada/Ada_0002", "Bob/Bob_0001", "St. Ives/x.y"]
FEATURES = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


def npz(path: Path, names: object = NAMES, features: object = FEATURES) -> Path:
    np.savez(path, names=np.array(names), features=np.array(features))
    return path


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_npz(tmp_path: Path) -> None:
    for kind in (np.float32, np.float64, np.float16):
        names, features = read_features(npz(tmp_path / "a.npz", features=FEATURES.astype(kind)))
        assert names == PLAIN and np.array_equal(features, FEATURES.astype(kind))
        assert features.dtype == (np.float64 if kind is np.float64 else np.float32)
    names, _ = read_features(npz(tmp_path / "a.npz", names=[name.encode() for name in NAMES]))
    assert names == PLAIN
    np.savez_compressed(tmp_path / "b.npz", names=np.array(NAMES), features=FEATURES, more=np.ones(3))
    assert read_features(tmp_path / "b.npz")[0] == PLAIN


def test_safetensors_with_an_index_or_with_names_in_the_metadata(tmp_path: Path) -> None:
    path = tmp_path / "features.safetensors"
    save_file({"features": FEATURES}, path, {"names": json.dumps(NAMES)})
    assert read_features(path)[0] == PLAIN
    save_file({"features": FEATURES}, path)
    with pytest.raises(DatasetError, match="does not name the photos of its features"):
        read_features(path)
    parquet(tmp_path / "index.parquet", photo=NAMES, how=["face"] * 4)
    names, features = read_features(path)
    assert names == PLAIN and np.array_equal(features, FEATURES)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 6), pa.large_list(pa.float64())])
def test_parquet(kind: pa.DataType, tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", names=NAMES, features=pa.array(FEATURES.tolist(), kind))
    names, features = read_features(path)
    assert names == PLAIN and np.array_equal(features, FEATURES)


def test_rows_of_photos(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    assert rows_of(PLAIN, ["Bob/Bob_0001.jpg", "Ada/Ada_0001", "Bob/Bob_0001"], path).tolist() == [2, 0, 2]
    photos = ["Ada/Ada_0001", *(f"Z/{i}" for i in range(9)), "Z/0"]
    with pytest.raises(PairsError, match=r"no features of 9 photos of the pairs: Z/0, Z/1, Z/2 \.\.\.; ") as caught:
        rows_of(PLAIN, photos, path)
    assert caught.value.where == str(path)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_objects_are_not_executed(tmp_path: Path) -> None:
    payload = Payload(tmp_path / "created")
    path = tmp_path / "a.npz"
    for arrays in (
        {"names": np.array([payload] * 4, object), "features": FEATURES},
        {"names": np.array(NAMES), "features": np.array([payload], object)},
    ):
        np.savez(path, allow_pickle=True, **arrays)
        with pytest.raises(DatasetError, match=r"is not a readable \.npz"):
            read_features(path)
        assert not payload.path.exists()
    path.write_bytes(pickle.dumps(payload))
    with pytest.raises(DatasetError, match=r"is not an \.npz"):
        read_features(path)
    assert not payload.path.exists()


@pytest.mark.parametrize("shape", ["(4, 60)", "(4, 10000000000000)", "(4, -6)", "(4, 6", "(1).__class__"])
def test_false_and_damaged_headers_are_refused(shape: str, tmp_path: Path) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + FEATURES.tobytes()
    with zipfile.ZipFile(npz(tmp_path / "a.npz")) as source, zipfile.ZipFile(tmp_path / "b.npz", "w") as target:
        target.writestr("names.npy", source.read("names.npy"))
        target.writestr("features.npy", array)
    with pytest.raises(DatasetError, match=r"is not a readable \.npz"):
        read_features(tmp_path / "b.npz")


BAD = FEATURES.copy()
BAD[[1, 3], 0] = np.nan, np.inf


@pytest.mark.parametrize(
    ("names", "features", "words"),
    [
        (NAMES[:3], FEATURES, "3 names for 4 features"),
        (NAMES, FEATURES[0], r"features are float32 \(6,\)"),
        (NAMES, FEATURES.astype(int), "not floating-point"),
        (np.zeros((0,), str), np.zeros((0, 3)), "not floating-point"),
        (NAMES, BAD, "features of 2 photos hold NaN or infinity: Ada/Ada_0002, St. Ives/x.y;"),
        ([1, 2, 3, 4], FEATURES, "not strings"),
        ([NAMES], FEATURES, "not strings"),
        ([*NAMES[:3], "Ada/Ada_0001.png"], FEATURES, "1 names occur more than once: Ada/Ada_0001;"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, names: object, features: object, words: str) -> None:
    path = npz(tmp_path / "a.npz", names, features)
    with pytest.raises(DatasetError, match=words) as caught:
        read_features(path)
    assert caught.value.where == str(path) and caught.value.remedy


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    cases: dict[str, tuple[bytes | None, str]] = {
        "a.npy": (b"", "is not a file of features"), "a.npz": (None, "cannot be read"),
        "b.npz": (b"x", "is not an .npz"),
        "c.npz": (b"", "is not an .npz"), "a.safetensors": (b"xxxxxxxxxxxx", "not a readable .safetensors"),
        "b.safetensors": (None, "cannot be read"), "a.parquet": (b"PAR1xxxxPAR1", "not a readable Parquet"),
    }  # fmt: skip
    for name, (data, words) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(DatasetError, match=words) as caught:
            read_features(tmp_path / name)
        assert caught.value.where == str(tmp_path / name) and caught.value.remedy
    np.savez(tmp_path / "d.npz", features=FEATURES)
    with pytest.raises(DatasetError, match="does not hold `names` and `features`"):
        read_features(tmp_path / "d.npz")
    np.save(tmp_path / "e.npy", FEATURES)
    (tmp_path / "e.npy").rename(tmp_path / "e.npz")
    with pytest.raises(DatasetError, match=r"is not an \.npz"):
        read_features(tmp_path / "e.npz")


def test_wrong_tensors_and_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"values": FEATURES}, path)
    with pytest.raises(DatasetError, match="has no tensor `features`"):
        read_features(path)
    for text, words in (("[1, 2]", "not a list of strings"), ("{", "is not JSON"), ('"x"', "not a list of strings")):
        save_file({"features": FEATURES}, path, {"names": text})
        with pytest.raises(DatasetError, match=words):
            read_features(path)
    columns: list[tuple[dict[str, object], str]] = [
        ({"names": NAMES}, "no column `features`"),
        ({"features": FEATURES.tolist()}, "no column `names`"),
        ({"names": [1, 2, 3, 4], "features": FEATURES.tolist()}, "no column `names` of strings"),
        ({"names": NAMES, "features": [1.0, 2.0, 3.0, 4.0]}, "does not hold lists"),
        ({"names": NAMES, "features": [[1.0], [1.0, 2.0], [1.0], [1.0]]}, "differ in length"),
        ({"names": NAMES, "features": [[1.0], None, [1.0], [1.0]]}, "differ in length"),
        ({"names": NAMES, "features": [["a"], ["b"], ["c"], ["d"]]}, "not floating-point"),
    ]
    for table, words in columns:
        with pytest.raises(DatasetError, match=words):
            read_features(parquet(tmp_path / "a.parquet", **table))
