"""Features from files of every supported format, and files that are refused."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from hostile_files import damaged, read_or_refuse
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from sfplus.errors import DatasetError, UsageError
from sfplus.verification.features import check_features, read_features, unusable_features

NAMES = ["Ada/Ada_0001.jpg", "Ada/Ada_0002", "./Bob/Bob_0001.PNG", "St. Ives/x.y"]
PLAIN = ["Ada/Ada_0001.jpg", "Ada/Ada_0002", "Bob/Bob_0001.PNG", "St. Ives/x.y"]
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
        with pytest.raises(DatasetError, match="holds pickled objects, which are not read"):
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
    with pytest.raises(DatasetError, match=r"b\.npz: (is damaged|does not fit into memory)"):
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
        ([1, 2, 3, 4], FEATURES, "not strings"),
        ([NAMES], FEATURES, "not strings"),
        ([*NAMES[:3], "./Ada\\Ada_0001.jpg"], FEATURES, r"1 name occurs more than once: Ada/Ada_0001\.jpg;"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, names: object, features: object, words: str) -> None:
    path = npz(tmp_path / "a.npz", names, features)
    with pytest.raises(DatasetError, match=words) as caught:
        read_features(path)
    assert caught.value.where == str(path) and caught.value.remedy


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    cases: dict[str, tuple[bytes | None, str]] = {
        "a.pkl": (b"", "is not a file of features; give .npz, .npy, .* pickles"), "a.npz": (None, "cannot be read"),
        "b.npz": (b"x", "is not an .npz"),
        "c.npz": (b"", "is not an .npz"), "a.safetensors": (b"xxxxxxxxxxxx", "is damaged"),
        "b.safetensors": (None, "cannot be read"),
        "a.npy": (b"x", "is not an .npy file"), "b.npy": (None, "cannot be read"),
        "a.csv": (b"\x00\x01", "is not a text file"), "b.csv": (b"a,1\nb\n", "is damaged"),
        "a.parquet": (b"PAR1xxxxPAR1", "is damaged"),
    }  # fmt: skip
    for name, (data, words) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises((DatasetError, UsageError), match=words) as caught:
            read_features(tmp_path / name)
        assert caught.value.where == str(tmp_path / name) and caught.value.remedy
    np.savez(tmp_path / "d.npz", features=FEATURES)
    with pytest.raises(DatasetError, match=r"does not hold `names` and `features`, but features float32 \(4, 6\)"):
        read_features(tmp_path / "d.npz")
    np.save(tmp_path / "e.npy", FEATURES)
    (tmp_path / "e.npy").rename(tmp_path / "e.npz")
    with pytest.raises(DatasetError, match=r"is not an \.npz"):
        read_features(tmp_path / "e.npz")


def test_wrong_tensors_and_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"values": FEATURES, "others": FEATURES}, path)
    with pytest.raises(DatasetError, match="has no tensor `features`"):
        read_features(path)
    for text, words in (
        ("[1, 2]", "valid string"),
        ("{", "is damaged"),
        ('"x"', "valid list"),
        ("[" * 99999, "nested"),
    ):
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
        ({"names": NAMES, "features": [["a"], ["b"], ["c"], ["d"]]}, "no column `features`"),
    ]
    for table, words in columns:
        with pytest.raises(DatasetError, match=words):
            read_features(parquet(tmp_path / "a.parquet", **table))


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("names", "features"),
    [("names", "features"), ("paths", "embeddings"), ("file_names", "emb"), ("Photo", "Embedding"), ("which", "what"),
     ("image_path", "feats")],
)  # fmt: skip
def test_common_names_of_arrays_and_columns(tmp_path: Path, names: str, features: str, kind: type) -> None:
    values = FEATURES.astype(kind)
    np.savez(tmp_path / "a.npz", **{names: np.array(NAMES), features: values, "label": np.arange(4)})
    save_file({features: values}, tmp_path / "a.safetensors", {"names": json.dumps(NAMES)})
    parquet(tmp_path / "a.parquet", **{"label": [1] * 4, names: NAMES, features: list(values)})
    for file in ("a.npz", "a.safetensors", "a.parquet"):
        read, array = read_features(tmp_path / file)
        assert read == PLAIN and np.array_equal(array, values) and array.dtype == np.float32, file


def test_a_feature_for_each_name(tmp_path: Path) -> None:
    each = dict(zip(PLAIN, FEATURES, strict=True))
    np.savez(tmp_path / "a.npz", **each)
    save_file(each, tmp_path / "a.safetensors")
    for file in ("a.npz", "a.safetensors"):
        names, features = read_features(tmp_path / file)
        assert {name: row.tolist() for name, row in zip(names, features, strict=True)} == {
            name: row.tolist() for name, row in each.items()
        }


def test_bfloat16(tmp_path: Path) -> None:
    tensor = torch.from_numpy(FEATURES).bfloat16()
    save_torch({"features": tensor}, tmp_path / "a.safetensors", {"names": json.dumps(NAMES)})
    names, features = read_features(tmp_path / "a.safetensors")
    assert names == PLAIN and np.array_equal(features, tensor.float().numpy()) and features.dtype == np.float32


@pytest.mark.parametrize(
    "file", ["a.txt", "names.txt", "a.json", "names.json", "a.names.npy", "names.npy", "index.parquet"]
)
@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_names_beside_the_features(tmp_path: Path, file: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, FEATURES)
    else:
        save_file({"features": FEATURES}, path)
    with pytest.raises(
        DatasetError, match=r"does not name the photos of its features; add the names beside it: a\.txt"
    ):
        read_features(path)
    if file.endswith("txt"):
        (tmp_path / file).write_text("\r\n".join(NAMES))
    elif file.endswith("json"):
        (tmp_path / file).write_text(json.dumps(NAMES))
    elif file.endswith("npy"):
        np.save(tmp_path / file, np.array(NAMES))
    else:
        parquet(tmp_path / file, photo=NAMES)
    names, features = read_features(path)
    assert names == PLAIN and np.array_equal(features, FEATURES)


def test_npy_with_fields(tmp_path: Path) -> None:
    table = np.zeros(4, [("name", "U40"), ("feature", "f4", 6)])
    table["name"], table["feature"] = NAMES, FEATURES
    np.save(tmp_path / "a.npy", table)
    names, features = read_features(tmp_path / "a.npy")
    assert names == PLAIN and np.array_equal(features, FEATURES)


def test_pickled_objects_in_npy_are_not_executed(tmp_path: Path) -> None:
    payload = Payload(tmp_path / "created")
    np.save(tmp_path / "a.npy", np.array([payload], object), allow_pickle=True)
    with pytest.raises(DatasetError, match="holds pickled objects, which are not read; save a matrix of numbers"):
        read_features(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", names=np.array(NAMES, object), features=FEATURES)
    with pytest.raises(DatasetError, match=r"holds pickled objects.*names as text: np.array\(names, dtype=str\)"):
        read_features(tmp_path / "a.npz")
    assert not payload.path.exists()


def csv_text(separator: str, header: list[str], rows: list[list[object]]) -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in ([header] if header else []) + rows)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("header", [[], ["name", *"abcdef"], ["", "name", *"abcdef"], ["photo", *"abcdef", "label"]])
def test_csv(tmp_path: Path, separator: str, header: list[str]) -> None:
    rows: list[list[object]] = [[name, *row] for name, row in zip(NAMES, FEATURES.tolist(), strict=True)]
    if header[:1] == [""]:
        rows = [[i, *row] for i, row in enumerate(rows)]
    elif header[-1:] == ["label"]:
        rows = [[*row, i] for i, row in enumerate(rows)]
    (tmp_path / "a.csv").write_bytes(csv_text(separator, header, rows).encode("utf-8-sig"))
    names, features = read_features(tmp_path / "a.csv")
    assert names == PLAIN and np.array_equal(features, FEATURES.astype(np.float64))


def test_csv_with_numbers_as_names_or_lists_as_text(tmp_path: Path) -> None:
    rows: list[list[object]] = [[f"0000{i}", *row] for i, row in enumerate(FEATURES.tolist())]
    for header in ([], ["id", *"abcdef"]):
        (tmp_path / "a.csv").write_text(csv_text(",", header, rows))
        names, features = read_features(tmp_path / "a.csv")
        assert names == ["00000", "00001", "00002", "00003"] and np.array_equal(features, FEATURES.astype(np.float64))
    for text in (lambda row: f'"{row.tolist()}"', lambda row: f'"{" ".join(map(str, row.tolist()))}"'):
        lists: list[list[object]] = [[name, text(row)] for name, row in zip(NAMES, FEATURES, strict=True)]
        (tmp_path / "a.csv").write_text(csv_text(",", ["name", "embedding"], lists))
        names, features = read_features(tmp_path / "a.csv")
        assert names == PLAIN and np.array_equal(features, FEATURES.astype(np.float64))


def test_parquet_with_a_column_for_each_number(tmp_path: Path) -> None:
    columns = {f"f{i}": FEATURES[:, i] for i in range(6)}
    names, features = read_features(parquet(tmp_path / "a.parquet", label=[1, 2, 3, 4], photo=NAMES, **columns))
    assert names == PLAIN and np.array_equal(features, FEATURES.astype(np.float64))


def test_features_without_a_direction_are_named() -> None:
    features = np.concatenate([BAD, np.zeros((1, 6), np.float32)])
    assert unusable_features(features).tolist() == [False, True, False, True, True]
    words = r"features of 3 photos are zero or hold NaN or infinity: Ada/Ada_0002, St\. Ives/x\.y, z;"
    with pytest.raises(DatasetError, match=words):
        check_features([*PLAIN, "z"], features, Path("a.npz"))
    with pytest.raises(DatasetError, match="features of 1 photo are"):
        check_features(["z"], features[-1:], Path("a.npz"))
    check_features(PLAIN, FEATURES, Path("a.npz"))


@pytest.mark.parametrize("dtype", ["<f2", ">f2", ">f4", ">f8", "longdouble"])
def test_floating_point_numbers_of_any_size_and_byte_order_are_read(tmp_path: Path, dtype: str) -> None:
    values = np.array([[1.0, 2.0], [0.5, -3.0]])
    np.savez(tmp_path / "x.npz", names=np.array(["a", "b"]), features=values.astype(dtype))
    features = read_features(tmp_path / "x.npz")[1]
    assert features.dtype in (np.float32, np.float64) and np.array_equal(features, values)


@pytest.mark.parametrize(
    "text",
    [
        "a 1.5 2\nb 0.5 nan\n", "a  1.5   2 \n b\t0.5 nan", "# two photos\na,1.5,2\n\n# more\nb,0.5,NaN\n",
        "name;f0;f1\na;1.5;2\nb;0.5;nan\n",
    ],
)  # fmt: skip
def test_tables_with_spaces_comments_and_nan_are_read(tmp_path: Path, text: str) -> None:
    """NaN is reported with the names of the photos, not as a column of another length."""
    (tmp_path / "x.csv").write_text(text)
    names, features = read_features(tmp_path / "x.csv")
    assert names == ["a", "b"] and np.array_equal(features, [[1.5, 2], [0.5, np.nan]], equal_nan=True)


@pytest.mark.parametrize("text", ["", "\n \n", "# only a comment\n"])
def test_tables_without_rows_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DatasetError, match="is not a text file"):
        read_features(tmp_path / "x.csv")


def test_names_that_pandas_keeps_as_categories_are_read(tmp_path: Path) -> None:
    table = pa.table({"name": pa.array(["a", "b"]).dictionary_encode(), "feature": [[1.0, 2.0], [3.0, 4.0]]})
    pq.write_table(table, tmp_path / "x.parquet")
    assert read_features(tmp_path / "x.parquet")[0] == ["a", "b"]


X_AND_Y = {"name": NAMES, "x": [0.5, 1.0, 2.0, 3.0], "y": [1, 0, 5, 7]}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("order", [["name", "x", "y"], ["y", "x", "name"], ["name", "X", "Y"]])
def test_columns_x_and_y_are_numbers_of_a_feature(suffix: str, order: list[str], tmp_path: Path) -> None:
    table = pa.table({key: X_AND_Y[key.lower()] for key in order})
    (pa.csv.write_csv if suffix == ".csv" else pq.write_table)(table, tmp_path / f"a{suffix}")
    names, features = read_features(tmp_path / f"a{suffix}")
    assert names == PLAIN
    np.testing.assert_array_equal(
        features, [[table[key][i].as_py() for key in order if key != "name"] for i in range(4)]
    )


def test_a_column_x_of_lists_is_the_feature(tmp_path: Path) -> None:
    """A column y is then a label, and not a number of the feature."""
    pq.write_table(pa.table({"name": NAMES, "x": FEATURES.tolist(), "y": [1, 0, 5, 7]}), tmp_path / "a.parquet")
    np.testing.assert_array_equal(read_features(tmp_path / "a.parquet")[1], FEATURES.astype(np.float64))


@pytest.mark.parametrize("word", ["x", "embedding"])
def test_a_single_column_of_numbers_is_refused_by_its_name(word: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"name": NAMES, word: X_AND_Y["x"]}), tmp_path / "a.parquet")
    with pytest.raises(DatasetError, match=f"its column `{word}` does not hold lists"):
        read_features(tmp_path / "a.parquet")


@pytest.mark.slow
def test_damage_of_any_format_is_one_line(tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.mkdir()
    save_file({"features": FEATURES}, tmp_path / "a.safetensors", {"names": json.dumps(NAMES)})
    np.savez(tmp_path / "a.npz", names=np.array(NAMES), features=FEATURES)
    np.savez_compressed(tmp_path / "b.npz", names=np.array(NAMES), features=FEATURES)
    parquet(tmp_path / "a.parquet", names=NAMES, features=FEATURES.tolist())
    rows = [[name, *row] for name, row in zip(PLAIN, FEATURES.tolist(), strict=True)]
    (tmp_path / "a.csv").write_text(csv_text(",", ["name", *"abcdef"], rows))
    np.save(tmp_path / "a.npy", FEATURES)
    (tmp_path / "a.txt").write_text("\n".join(NAMES))
    np.save(names / "c.npy", FEATURES)
    np.save(names / "c.names.npy", np.array(NAMES))
    np.save(names / "d.npy", FEATURES)
    parquet(names / "index.parquet", photo=NAMES)
    cases = refused = 0
    for number, file in enumerate(sorted(tmp_path.rglob("*.*"))):
        data = file.read_bytes()
        read = {"a.txt": tmp_path / "a.npy", "c.names.npy": names / "c.npy", "index.parquet": names / "d.npy"}
        for case in damaged(data, 70, 30, number):
            file.write_bytes(case)
            refused += read_or_refuse(lambda file=file, read=read: read_features(read.get(file.name, file)))
            cases += 1
        file.write_bytes(data)
    assert cases > 1000 and refused > 600


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in members.items():
            target.writestr(f"{name}.npy", data)
    return path


def array_file(shape: str, kind: str = "'<f4'", data: bytes = b"") -> bytes:
    header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': ({shape}), }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize("shape", ["-1, 6", "0, 1000000000000", "4, " * 40, "9" * 30, "'a'", "None", "1e3", "4, True"])
@pytest.mark.parametrize(
    "kind", ["'<f4'", "'|O'", "'<U1000000000'", "'V8'", "'<f4', '<f4'", "[('a', '<f4')]", "(" * 200]
)
def test_headers_of_arrays_are_checked(tmp_path: Path, shape: str, kind: str) -> None:
    array = array_file(shape, kind, FEATURES.tobytes())
    (tmp_path / "a.npy").write_bytes(array)
    (tmp_path / "a.txt").write_text("\n".join(NAMES))
    names = npz(tmp_path / "a.npz")
    with zipfile.ZipFile(names) as source:
        path = zipped(tmp_path / "b.npz", names=source.read("names.npy"), features=array)
    assert read_or_refuse(lambda: read_features(tmp_path / "a.npy")) and read_or_refuse(lambda: read_features(path))


def test_small_files_that_expand_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.npz", features=array_file("4, 5000000", data=bytes(80_000_000)))
    assert path.stat().st_size < 1_000_000
    with pytest.raises(DatasetError, match=r"bytes expand to 80,000,\d+, more than 30 times their size"):
        read_features(path)


NAMES_OF_ANY_KIND = ["a\0b", "\udcff/1", "\ud800", "a\x1b[31m", "a\nb", "\u202eb"]


@pytest.mark.parametrize("suffix", [".npz", ".names.npy", ".json", ".safetensors"])
def test_names_of_any_characters_are_read_and_shown_escaped(tmp_path: Path, suffix: str) -> None:
    features, path = np.tile(FEATURES, (2, 1))[:6], tmp_path / "a.npy"
    for names in (NAMES_OF_ANY_KIND, ["\udcff\n"] * 6):
        np.save(path, features)
        if suffix == ".npz":
            path = npz(tmp_path / "a.npz", names, features)
        elif suffix == ".safetensors":
            path = tmp_path / "a.safetensors"
            save_file({"features": features}, path, {"names": json.dumps(names)})
        elif suffix == ".json":
            (tmp_path / "a.json").write_text(json.dumps(names))
        else:
            np.save(tmp_path / "a.names.npy", np.array(names))
        refused = read_or_refuse(lambda path=path: read_features(path))
        assert refused or (names is NAMES_OF_ANY_KIND and read_features(path)[0] == names)


def test_names_beyond_unicode_are_refused(tmp_path: Path) -> None:
    names = array_file("2,", "'<U1'", (0x110000).to_bytes(4, "little") + b"A\0\0\0")
    path = zipped(tmp_path / "a.npz", names=names, features=array_file("2, 2", data=bytes(range(16))))
    with pytest.raises(DatasetError, match="its names are not text"):
        read_features(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "tensor",
    [{"dtype": kind, "shape": shape, "data_offsets": [0, size]}
     for kind in ("F32", "BF16", "F8_E4M3", "I64", "BOOL", "F4")
     for shape in ([1, 4], [0, 8], [1] * 100, [2**40, 0], [0, 2**63], [], [-1])
     for size in (0, 4, 16)],
)  # fmt: skip
def test_tensors_of_any_shape_are_one_line(tmp_path: Path, tensor: dict[str, object]) -> None:
    header = json.dumps({"features": tensor, "__metadata__": {"names": '["a"]'}}).encode()
    size = tensor["data_offsets"][1]
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\1" * size)
    read_or_refuse(lambda: read_features(tmp_path / "a.safetensors"))


CSV_TEXTS = {
    "long header": "n" * 200_000 + ",f\na,1.5\n", "quotes": '"' * 300_000 + "\n", "commas": ",,,\n,,,\n",
    "digits": "name,f\na," + "9" * 5000 + "\n", "lists of digits": 'name,features\na,"[' + "9" * 5000 + ']"\n',
    "no numbers": 'name,features\na,"[1e999 nan]"\n', "NUL": "name,f\na\0b,1.5\n", "ragged": "name,f\na,1.5,3\n",
    "equal columns": "name,f,f,f 2\na,1.5,2.5,3.5\nb,1.5,2.5,3.5\n", "dates": "name,f\na,2020-01-01\n",
    "columns": ",".join(["name", *"f" * 30_000]) + "\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", CSV_TEXTS)
def test_texts_of_any_kind_are_one_line(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.csv").write_text(CSV_TEXTS[kind])
    features: list[np.ndarray] = []
    refused = read_or_refuse(lambda: features.append(read_features(tmp_path / "a.csv")[1]))
    assert refused or kind == "equal columns" or unusable_features(features[0]).all()
