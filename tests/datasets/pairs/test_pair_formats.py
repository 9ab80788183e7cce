import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfplus.datasets import pairs as package
from sfplus.datasets.pairs import pair_files, pair_formats, read_pairs
from sfplus.errors import PairsError


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
