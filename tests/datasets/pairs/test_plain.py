from pathlib import Path

import numpy as np
import pytest

from sfplus.datasets.pairs import Pairs, read_pairs, read_plain, write_plain
from sfplus.errors import PairsError


def file(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


PLAIN = [("a/1.jpg", "a/2.PNG", "1"), ("a/1", "b/1.jpg", "0"), ("c d/1.jpg", "c d/2", "true"), ("x.y/1", "b/1", "-1")]


@pytest.mark.parametrize("separator", ["\t", ",", " , ", ", "])
@pytest.mark.parametrize("label_first", [False, True])
def test_separators_and_the_order_of_fields_are_recognised(tmp_path: Path, separator: str, label_first: bool) -> None:
    rows = [(c, a, b) if label_first else (a, b, c) for a, b, c in PLAIN]
    pairs = read_pairs(
        file(tmp_path, "pairs.csv", "\ufeff" + "\r\n".join(separator.join(row) for row in rows) + "\r\n\r\n")
    )
    assert pairs.left == ("a/1", "a/1", "c d/1", "x.y/1") and pairs.right == ("a/2", "b/1", "c d/2", "b/1")
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.fold.tolist() == [0, 0, 1, 1]


def test_lists_with_folds_are_read_and_written(tmp_path: Path) -> None:
    text = "a b 1 0\nb c 0 0\na c 1 1\nc d 0 1\ne f 1 -1\n"
    pairs = read_pairs(file(tmp_path, "pairs.txt", text))
    assert pairs.fold.tolist() == [0, 0, 1, 1, -1] and pairs.left == ("a", "b", "a", "c", "e")
    write_plain(tmp_path / "again.txt", pairs)
    again = read_pairs(tmp_path / "again.txt")
    assert (again.left, again.right) == (pairs.left, pairs.right)
    assert np.array_equal(again.fold, pairs.fold) and np.array_equal(again.same, pairs.same)
    with pytest.raises(PairsError, match="cannot be written to a plain list"):
        write_plain(tmp_path / "x", Pairs(("a.jpg",), ("b",), np.array([True]), np.array([0])))


@pytest.mark.parametrize("counts", [(10, 10), (25, 13), (3, 40), (1, 1), (4, 0)])
def test_lists_without_folds_are_split_in_order_and_by_kind(tmp_path: Path, counts: tuple[int, int]) -> None:
    same, different = counts
    text = "".join(f"p/{i} q/{i} 1\n" for i in range(same)) + "".join(f"p/{i} r/{i} 0\n" for i in range(different))
    pairs = read_pairs(file(tmp_path, "x.txt", text))
    folds = max(1, min(10, same, different))
    assert pairs.folds == folds
    for kind in (pairs.same, ~pairs.same):
        assert np.all(np.diff(pairs.fold[kind]) >= 0)
        sizes = np.bincount(pairs.fold[kind], minlength=folds)
        assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("a b", "not a pair"), ("a b 2", "not a pair"), ("a b 1 0", "not a pair"), ("", "not a pair"),
        ("a b c 1", "not a pair"),
        ("../a b 1", "outside the folder"), ("/a b 1", "outside the folder"), ("a a\\b 1", "outside the folder"),
        ("a ./b 1", "outside the folder"),
    ],
)  # fmt: skip
def test_malformed_lines_are_named(tmp_path: Path, bad: str, words: str) -> None:
    path = file(tmp_path, "x.txt", f"a b 1\nc d 0\n{bad}\ne f 1\n")
    with pytest.raises(PairsError, match=words) as caught:
        read_pairs(path)
    assert caught.value.where == f"{path}:3" and caught.value.remedy


@pytest.mark.parametrize("fold", ["x", "1.5", "--1", "1234567", "²"])
def test_malformed_folds_are_named(tmp_path: Path, fold: str) -> None:
    path = file(tmp_path, "x.txt", f"a b 1 0\nc d 0 {fold}\n")
    with pytest.raises(PairsError, match="is not a fold") as caught:
        read_pairs(path)
    assert caught.value.where == f"{path}:2"


def test_folds_with_a_gap_and_empty_lists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="without a gap") as caught:
        read_pairs(file(tmp_path, "x.txt", "a b 1 0\nc d 0 2\n"))
    assert caught.value.where == str(tmp_path / "x.txt")
    with pytest.raises(PairsError, match="is empty"):
        read_plain(file(tmp_path, "y.txt", "\n"))
