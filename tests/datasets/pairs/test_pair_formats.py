import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_files import damaged, read_or_refuse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfplus.datasets import pairs as package
from sfplus.datasets.pairs import match_photos, pair_files, pair_formats, read_pairs
from sfplus.datasets.pairs.dataset_name import pairs_digest
from sfplus.errors import PairsError


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=60),
        st.text(st.sampled_from("ab/.\\\t ,\n\r01-\x00é²"), max_size=60).map(str.encode),
        st.lists(
            st.sampled_from(["2\t1", "1", "a\t1\t2", "a\t1\tb\t2", "a b 1", "a,b,0", "a b 1 0", ""]), max_size=8
        ).map(lambda lines: "\n".join(lines).encode()),
    )
)
def test_any_file_is_read_or_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "pairs.txt"
    path.write_bytes(data)
    try:
        pairs = read_pairs(path)
    except PairsError as error:
        assert error.where.startswith(str(path)) and error.reason
    else:
        assert all(".." not in name.split("/") and not name.startswith("/") for name in pairs.photos)


def test_files_of_a_list_are_found_without_reading_it(tmp_path: Path) -> None:
    assert pair_files(tmp_path / "pairs.txt") == [tmp_path / "pairs.txt"]
    assert pair_files(tmp_path / "lfw.bin") == [tmp_path / "lfw.bin"]
    test, train = tmp_path / "pairsDevTest.txt", tmp_path / "pairsDevTrain.txt"
    assert pair_files(test) == [test, train]


TOY_FORMAT = """
import numpy as np

from sfplus.datasets.pairs import PairFormat, Pairs

def read_toy(path):
    return Pairs(("a",), ("b",), np.array([True]), np.array([0]))

FORMATS = (PairFormat(lambda path: path.suffix == ".toy", read_toy),)
"""


@pytest.fixture
def toy_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "toy.py").write_text(TOY_FORMAT)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    pair_formats._pair_formats.cache_clear()
    yield
    pair_formats._pair_formats.cache_clear()
    sys.modules.pop("sfplus.datasets.pairs.toy", None)


def test_a_new_module_is_a_new_format(tmp_path: Path, toy_format: None) -> None:
    assert read_pairs(tmp_path / "pairs.toy").left == ("a",)


LISTS = {
    "LFW's view 2": "2\t2\n" + "".join(f"A{k}\t1\t2\nB{k}\t1\t3\nA{k}\t1\tB{k}\t2\nA{k}\t2\tC{k}\t2\n" for k in (0, 1)),
    "LFW's view 1": "2\nA\t1\t2\nB\t1\t2\nA\t1\tB\t1\nC\t1\tB\t1\n",
    "paths": "a/1.jpg b/2.jpg 0\na/1.jpg a/2.jpg 1\n" * 5,
    "CSV": "img1,img2,label,fold\n" + "a/1.jpg,b/2.jpg,0,1\na/1.jpg,a/2.jpg,1,2\n" * 5,
    "labels first": "1 a/1.jpg a/2.jpg\n0 a/1.jpg b/2.jpg\n" * 5,
    "Kaggle's": "name,imagenum1,imagenum2,\nA,1,2,\nB,1,2,\nA,1,B,2\nC,1,D,2\n",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
@pytest.mark.parametrize("kind", LISTS)
def test_damaged_lists_are_one_line(tmp_path: Path, kind: str, encoding: str) -> None:
    def read() -> None:
        pairs = read_pairs(path)
        assert len(pairs_digest(pairs)) == 64 and len(pairs.people.left) == len(pairs)
        match_photos(pairs.photos, pairs.photos).check(pairs.photos, path, path)

    path = tmp_path / "pairs.txt"
    for data in damaged(LISTS[kind].encode(encoding), 60, 20):
        path.write_bytes(data)
        read_or_refuse(read)


TEXTS = {
    "huge folds": "999999999 999999999\n",
    "digits": "9" * 5000 + "\n",
    "other digits": "²\t²\n",
    "quotes": '"' * 200_000,
    "a long line": "a " * 300_000 + "1\n",
    "a long name": "a" * 200_000 + " b 1\na c 0\n",
    "apostrophes": "'" * 50_000 + " b 1\n",
    "quoted names": "'a' " * 20_000 + "\n",
    "no number": "a b nan\n",
    "infinity": "a b 1e999\n",
    "comments": "a b c" + " \t" * 50_000,
    "white space": "a b " + " " * 100_000 + "x #\n",
    "commas": "," * 200_000,
    "tabs": "\t" * 200_000,
    "a deep path": "a/" * 100_000 + "x b 1\n",
    "fold below zero": "a b 1 -5\na c 0 -5\n",
    "fold far away": "a b 1 1\na c 0 999999\n",
    "parents": "../a b 1\n",
    "NUL": "a\0b c 1\n",
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_of_any_kind_end_in_one_line(tmp_path: Path, kind: str) -> None:
    (tmp_path / "pairs.txt").write_text(TEXTS[kind])
    assert read_or_refuse(lambda: read_pairs(tmp_path / "pairs.txt")) or kind in (
        "a long name",
        "apostrophes",
        "fold far away",
    )
