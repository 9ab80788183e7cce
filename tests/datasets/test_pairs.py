from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sfplus.datasets.pairs import Pairs, draw_pairs, read_pairs, write_pairs
from sfplus.errors import DatasetError, PairsError

SMALL = "2\t1\nAda\t1\t2\nAda\t1\tBob\t12\nEve\t3\t4\nEve\t10000\tMax Planck\t1\n"


def small(tmp_path: Path, text: str | bytes = SMALL) -> Path:
    path = tmp_path / "pairs.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


def test_reads_the_view_2_format(tmp_path: Path) -> None:
    pairs = read_pairs(small(tmp_path))
    assert pairs.left == ("Ada/Ada_0001", "Ada/Ada_0001", "Eve/Eve_0003", "Eve/Eve_10000")
    assert pairs.right == ("Ada/Ada_0002", "Bob/Bob_0012", "Eve/Eve_0004", "Max Planck/Max Planck_0001")
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.fold.tolist() == [0, 0, 1, 1]
    assert (len(pairs), pairs.folds, len(pairs.photos)) == (4, 2, 7)


@pytest.mark.parametrize(
    "text",
    [
        SMALL.encode("utf-8-sig"),
        SMALL.replace("\n", "\r\n").encode(),
        SMALL.rstrip("\n").encode(),
        f"{SMALL}\n \n".encode(),
        SMALL.replace("\t", "  ").replace("Max Planck", "Max").encode(),
    ],
    ids=["BOM", "CRLF", "no last newline", "blank lines at the end", "spaces"],
)
def test_tolerates(tmp_path: Path, text: bytes) -> None:
    assert read_pairs(small(tmp_path, text)).left == read_pairs(small(tmp_path)).left


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("2\t1\n", "1\n", 1, "number of folds"),
        ("2\t1\n", "", 1, "number of folds"),
        ("2\t1\n", "two\t1\n", 1, "number of folds"),
        ("2\t1\n", "0\t1\n", 1, "number of folds"),
        ("Ada\t1\t2\n", "Ada\t1\n", 2, "'name n1 n2'"),
        ("Ada\t1\t2\n", "Ada\t1\tx\n", 2, "'name n1 n2'"),
        ("Ada\t1\t2\n", "Ada\t1\t²\n", 2, "'name n1 n2'"),
        ("Ada\t1\t2\n", "Ada\t1\tBob\t2\n", 2, "'name n1 n2'"),
        ("Ada\t1\tBob\t12\n", "Ada\t1\t3\n", 3, "'name1 n1 name2 n2'"),
        ("Ada\t1\tBob\t12\n", "Ada\t-1\tBob\t12\n", 3, "'name1 n1 name2 n2'"),
        ("Ada\t1\tBob\t12\n", "Ada\t1\tAda\t12\n", 3, "twice"),
        ("Bob", "../Bob", 3, "outside the folder"),
        ("Bob", "..", 3, "outside the folder"),
        ("Bob", "/etc", 3, "outside the folder"),
        ("Bob", "C:", 3, "outside the folder"),
        ("Bob", "..\\x", 3, "outside the folder"),
        ("Bob", "", 3, "outside the folder"),
    ],
)
def test_malformed_line_is_named(tmp_path: Path, old: str, new: str, line: int, words: str) -> None:
    path = small(tmp_path, SMALL.replace(old, new, 1))
    with pytest.raises(PairsError) as caught:
        read_pairs(path)
    assert caught.value.where == f"{path}:{line}"
    assert words in str(caught.value)
    assert caught.value.remedy


def test_wrong_file_is_refused_with_a_remedy(tmp_path: Path) -> None:
    cases = {
        "missing.txt": None,
        "cut.txt": SMALL.encode()[:30],
        "latin.txt": SMALL.replace("Ada", "Zoë").encode("latin-1"),
        "empty.txt": b"",
    }
    for name, data in cases.items():
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(PairsError) as caught:
            read_pairs(path)
        assert caught.value.where.startswith(str(path)) and caught.value.remedy


def test_header_must_match_the_number_of_lines(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="has 4 pairs, its header announces 3 folds x 2 x 1 = 6"):
        read_pairs(small(tmp_path, SMALL.replace("2\t1", "3\t1", 1)))


def test_round_trip_is_exact(tmp_path: Path) -> None:
    path, again = small(tmp_path), tmp_path / "again.txt"
    write_pairs(again, read_pairs(path))
    assert again.read_bytes() == path.read_bytes()


def one(left: str, right: str) -> Pairs:
    return Pairs((left, left), (right, "B/B_0001"), np.array([True, False]), np.array([0, 0], dtype=np.int64))


@pytest.mark.parametrize(
    "pairs",
    [
        one("A/photo", "A/A_0001"),
        one("A/A_001", "A/A_0001"),
        one("A/A_00010", "A/A_0001"),
        one("A/A_0001", "C/C_0001"),
        one("A\t/A\t_0001", "A\t/A\t_0002"),
        one("A\n/A\n_0001", "A\n/A\n_0002"),
        Pairs(("A/A_0001",), ("A/A_0002",), np.array([True]), np.array([0], dtype=np.int64)),
    ],
)
def test_what_does_not_fit_the_format_is_not_written(tmp_path: Path, pairs: Pairs) -> None:
    with pytest.raises(PairsError):
        write_pairs(tmp_path / "pairs.txt", pairs)
    assert not (tmp_path / "pairs.txt").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"left": ("A/1",)},
        {"left": ("A/1", "../A/2")},
        {"left": ("A/1", "/A/2")},
        {"left": ("A/1", "A//2")},
        {"left": ("A/1", "A/\x002")},
        {"same": np.array([1, 0])},
        {"fold": np.array([0, 0], dtype=np.int32)},
        {"fold": np.array([0, 2], dtype=np.int64)},
        {"fold": np.array([-1, 1], dtype=np.int64)},
        {"fold": np.array([-1, -1], dtype=np.int64)},
    ],
)
def test_pairs_are_validated(change: dict[str, object]) -> None:
    good: dict[str, object] = {
        "left": ("A/1", "A/2"),
        "right": ("B/1", "A/3"),
        "same": np.array([False, True]),
        "fold": np.array([0, 1], dtype=np.int64),
    }
    Pairs(**good)  # type: ignore[arg-type]
    with pytest.raises(PairsError):
        Pairs(**{**good, **change})  # type: ignore[arg-type]


def people(sizes: list[int]) -> list[str]:
    return [f"P {k}/P {k}_{n:04d}.jpg" for k, size in enumerate(sizes) for n in range(1, size + 1)]


def test_drawn_pairs_keep_the_rules_of_lfw(tmp_path: Path) -> None:
    photos = people([530, *range(1, 40), *[1] * 100])
    pairs = draw_pairs(photos, folds=5, per_fold=40, seed=3)
    assert np.array_equal(pairs.fold, np.repeat(np.arange(5), 80))
    assert np.array_equal(pairs.same, np.tile(np.repeat([True, False], 40), 5))
    person = np.array([[name.split("/")[0] for name in side] for side in (pairs.left, pairs.right)])
    assert np.array_equal(person[0] == person[1], pairs.same)
    assert len({frozenset(pair) for pair in zip(pairs.left, pairs.right, strict=True)}) == len(pairs)
    assert all(len(set(pair)) == 2 for pair in zip(pairs.left, pairs.right, strict=True))
    assert {f"{name}.jpg" for name in pairs.photos} <= set(photos)
    folds = [set(person[:, pairs.fold == k].ravel()) for k in range(5)]
    assert sum(map(len, folds)) == len(set().union(*folds))
    assert Counter(person[0])["P 0"] < 60, "one person with many photos takes over"
    write_pairs(tmp_path / "drawn.txt", pairs)
    assert read_pairs(tmp_path / "drawn.txt").right == pairs.right


def test_drawing_depends_on_photos_and_seed_only() -> None:
    photos = people([5] * 12)
    first, again = draw_pairs(photos, 3, 7, seed=1), draw_pairs(photos[::-1], 3, 7, seed=1)
    other = draw_pairs(photos, 3, 7, seed=2)
    assert (first.left, first.right) == (again.left, again.right)
    assert (first.left, first.right) != (other.left, other.right)


def test_draws_every_pair_there_is() -> None:
    pairs = draw_pairs(people([3, 3, 3, 3]), folds=2, per_fold=6, seed=0)
    assert pairs.same.sum() == 12
    with pytest.raises(DatasetError, match="photos for only 6 of 7 pairs of the same person"):
        draw_pairs(people([3, 3, 3, 3]), folds=2, per_fold=7, seed=0)


@pytest.mark.parametrize(
    ("photos", "words"),
    [
        ([], "0 of 2 pairs of the same person"),
        (people([9, 9]), "0 of 2 pairs of different people"),
        (people([1] * 20), "0 of 2 pairs of the same person"),
        (["photo.jpg", *people([9] * 9)], "not in a person's folder"),
        (["P 1/P 1_0001.png", *people([9] * 9)], "differ only in their extension"),
    ],
)
def test_too_few_photos_are_refused(photos: list[str], words: str) -> None:
    with pytest.raises(DatasetError, match=words) as caught:
        draw_pairs(photos, folds=2, per_fold=2, seed=0)
    assert caught.value.remedy


@pytest.mark.slow
def test_lfw(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "lfw" / "pairs.txt"
    pairs = read_pairs(path)
    assert (len(pairs), pairs.folds, int(pairs.same.sum()), len(pairs.photos)) == (6000, 10, 3000, 7701)
    assert pairs.left[0] == "Abel_Pacheco/Abel_Pacheco_0001"
    assert all((shared_data / "lfw" / "photos" / f"{name}.jpg").is_file() for name in pairs.photos)
    write_pairs(tmp_path / "pairs.txt", pairs)
    assert (tmp_path / "pairs.txt").read_bytes() == path.read_bytes()
