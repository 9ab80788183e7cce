from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfplus.datasets.pairs import (
    Pairs,
    pair_files,
    read_lfw_people,
    read_pairs,
    read_view_1,
    unrestricted,
    write_pairs,
)
from sfplus.errors import DatasetError, PairsError

SMALL = "2\t1\nAda\t1\t2\nAda\t1\tBob\t12\nEve\t3\t4\nEve\t10000\tMax Planck\t1\n"


def small(tmp_path: Path, text: str | bytes = SMALL) -> Path:
    path = tmp_path / "pairs.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


def test_reads_view_2(tmp_path: Path) -> None:
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
        SMALL.replace("Eve\t3", "\n# the second fold\nEve\t3").encode(),
        SMALL.replace("\n", "\r").encode("utf-16"),
        SMALL.encode("utf-16-be"),
        SMALL.replace("\t", ",").encode(),
        SMALL.replace("\t", ";").encode(),
        SMALL.replace("\t", "  ").replace("Max Planck", '"Max Planck"').encode(),
        SMALL.removeprefix("2\t1\n").encode(),
        b"name,imagenum1,imagenum2,\n"
        + SMALL.removeprefix("2\t1\n").replace("\t", ",").replace("2\n", "2,\n").encode(),
    ],
    ids=[
        "BOM",
        "CRLF",
        "no last newline",
        "blank lines at the end",
        "comment",
        "UTF-16, CR",
        "UTF-16 without mark",
        "commas",
        "semicolons",
        "spaces and quotes",
        "no header",
        "Kaggle",
    ],
)
def test_encodings_and_line_ends_are_tolerated(tmp_path: Path, text: bytes) -> None:
    expected, pairs = read_pairs(small(tmp_path)), read_pairs(small(tmp_path, text))
    assert (pairs.left, pairs.right) == (expected.left, expected.right)
    assert np.array_equal(pairs.same, expected.same) and np.array_equal(pairs.fold, expected.fold)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252"])
def test_accents_survive_any_encoding(tmp_path: Path, encoding: str) -> None:
    text = SMALL.replace("Ada", "Zoë").replace("Bob", "José")
    assert read_pairs(small(tmp_path, text.encode(encoding))).right[1] == "José/José_0012"


def test_pairs_without_header_keep_the_folds_of_view_2(tmp_path: Path) -> None:
    """Runs of three pairs of each kind alternate: folds of six pairs; any other order gives ten folds, or fewer."""
    same, different = "Ada\t1\t2\n" * 3, "Ada\t1\tBob\t2\n" * 3
    assert read_pairs(small(tmp_path, (same + different) * 4)).fold.tolist() == [k for k in range(4) for _ in range(6)]
    other = read_pairs(small(tmp_path, same * 2 + different * 2))
    assert other.folds == 6 and (np.bincount(other.fold[other.same]) == 1).all()


def test_a_single_list_of_view_1_is_split_into_folds(tmp_path: Path) -> None:
    text = "12\n" + "Ada\t1\t2\n" * 12 + "Ada\t1\tBob\t2\n" * 12
    pairs = read_pairs(small(tmp_path, text))
    assert (len(pairs), pairs.folds, int(pairs.same.sum())) == (24, 10, 12)


def test_a_list_of_people_is_not_a_list_of_pairs(tmp_path: Path) -> None:
    for text in (PEOPLE, "2\nAda\t4\nBob\t3\n"):
        with pytest.raises(PairsError, match=r"is a list of people, not of pairs; give LFW's pairs.txt"):
            read_pairs(small(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("2\t1\n", "0\t1\n", 1, "numbers of folds and of pairs"),
        ("2\t1\n", "0\n", 1, "number of pairs of each kind"),
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
def test_malformed_view_2_names_the_line(tmp_path: Path, old: str, new: str, line: int, words: str) -> None:
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
        "binary.txt": b"\x89PNG\r\n\x1a\n\x00\x00",
        "wrong order.txt": b"\xff\xfe" + SMALL.encode("utf-16-be"),
        "half.txt": SMALL.encode("utf-16")[:-1],
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
    with pytest.raises(PairsError, match="has 4 pairs, its header announces 1 fold x 2 x 1 = 2"):
        read_pairs(small(tmp_path, SMALL.replace("2\t1", "1", 1)))
    with pytest.raises(PairsError, match=r":2: 'of people' is not a pair.*; accepted are lines 'path path label'"):
        read_pairs(small(tmp_path, "two\tfolds\tof pairs\nof people\n"))


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
def test_pairs_that_do_not_fit_the_format_are_not_written(tmp_path: Path, pairs: Pairs) -> None:
    with pytest.raises(PairsError):
        write_pairs(tmp_path / "pairs.txt", pairs)
    assert not (tmp_path / "pairs.txt").exists()


@pytest.mark.slow
def test_pairs_txt_of_lfw_is_read_and_written_unchanged(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "lfw" / "pairs.txt"
    pairs = read_pairs(path)
    assert (len(pairs), pairs.folds, int(pairs.same.sum()), len(pairs.photos)) == (6000, 10, 3000, 7701)
    assert pairs.left[0] == "Abel_Pacheco/Abel_Pacheco_0001"
    assert all((shared_data / "lfw" / "photos" / f"{name}.jpg").is_file() for name in pairs.photos)
    write_pairs(tmp_path / "pairs.txt", pairs)
    assert (tmp_path / "pairs.txt").read_bytes() == path.read_bytes()


TEST = "1\nAda\t1\t2\nAda\t1\tBob\t12\n"


TRAIN = "2\nEve\t3\t4\nEve\t3\t5\nEve\t1\tMax\t1\nEve\t2\tMax\t1\n"


def file(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_view_1_tests_only_the_pairs_of_its_test_list(tmp_path: Path) -> None:
    test, train = file(tmp_path, "pairsDevTest.txt", TEST), file(tmp_path, "pairsDevTrain.txt", TRAIN)
    pairs = read_pairs(test)
    assert pairs.left == ("Ada/Ada_0001",) * 2 + ("Eve/Eve_0003",) * 2 + ("Eve/Eve_0001", "Eve/Eve_0002")
    assert pairs.same.tolist() == [True, False, True, True, False, False]
    assert pairs.fold.tolist() == [0, 0, -2, -2, -2, -2]
    assert (pairs.folds, len(pairs.tested), pairs.tested.right) == (1, 2, ("Ada/Ada_0002", "Bob/Bob_0012"))
    assert pair_files(test) == [test, train]
    train.unlink()
    with pytest.raises(PairsError, match=r"pairsDevTrain.txt: cannot be read"):
        read_pairs(test)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("1\t2\n", 1),
        ("x\n", 1),
        ("0\n", 1),
        (TEST.replace("Ada\t1\t2", "Ada\t1"), 2),
        (TEST.replace("Bob", ".."), 3),
    ],
)
def test_malformed_view_1_names_the_line(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(PairsError) as caught:
        read_view_1(file(tmp_path, "test.txt", text), file(tmp_path, "train.txt", TRAIN))
    assert caught.value.where == f"{tmp_path / 'test.txt'}:{line}"


PEOPLE = "2\n3\nAda\t4\nBob\t3\nCem\t1\n2\nEve\t5\nMax\t2\n"


def test_reads_the_people_of_both_views(tmp_path: Path) -> None:
    people = read_lfw_people(file(tmp_path, "people.txt", PEOPLE))
    assert people.names == ("Ada", "Bob", "Cem", "Eve", "Max")
    assert people.photos.tolist() == [4, 3, 1, 5, 2] and people.fold.tolist() == [0, 0, 0, 1, 1]
    people = read_lfw_people(file(tmp_path, "peopleDevTrain.txt", "2\nAda\t4\nBob\t3\n"))
    assert people.names == ("Ada", "Bob") and people.fold.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("", "", "ends too early"),
        ("2\n3\nAda\t4\n", "", "ends too early"),
        (PEOPLE.replace("Bob\t3", "Bob"), ":4", "name<TAB>photos"),
        (PEOPLE.replace("Bob\t3", "Bob\tx"), ":4", "name<TAB>photos"),
        (PEOPLE.replace("Bob", "../Bob"), ":4", "name<TAB>photos"),
        (PEOPLE.replace("\n2\nEve", "\nEve"), ":6", "does not start a fold with a number of people"),
        (PEOPLE + "Zoe\t1\n", "", "has 9 lines, its headers announce 8"),
        (PEOPLE.replace("Max", "Ada"), "", "lists a person twice"),
    ],
)
def test_malformed_people_are_refused(tmp_path: Path, text: str, where: str, words: str) -> None:
    path = file(tmp_path, "people.txt", text)
    with pytest.raises(PairsError, match=words) as caught:
        read_lfw_people(path)
    assert caught.value.where == f"{path}{where}"


def test_unrestricted_pairs_stay_within_their_fold_and_are_never_tested(tmp_path: Path) -> None:
    people = read_lfw_people(file(tmp_path, "people.txt", PEOPLE))
    text = "2\t1\nAda\t1\t2\nAda\t1\tBob\t2\nEve\t1\t2\nEve\t1\tMax\t2\n"
    view_2 = read_pairs(file(tmp_path, "pairs.txt", text))
    pairs = unrestricted(view_2, people, 5, seed=0)
    assert len(pairs) == 4 + 20 and pairs.tested.left == view_2.left
    fold_of = dict(zip(people.names, people.fold, strict=True))
    photos = dict(zip(people.names, people.photos, strict=True))
    for left, right, same, fold in zip(pairs.left[4:], pairs.right[4:], pairs.same[4:], pairs.fold[4:], strict=True):
        (a, i), (b, j) = ((name.split("/")[0], int(name[-4:])) for name in (left, right))
        assert -1 - fold == fold_of[a] == fold_of[b] and (a == b) == same and left != right
        assert i <= photos[a] and j <= photos[b]
    with pytest.raises(DatasetError, match="fold has photos for only"):
        unrestricted(view_2, people, 50, seed=0)
    with pytest.raises(PairsError, match="is not among the people of fold 0"):
        unrestricted(view_2, read_lfw_people(file(tmp_path, "p.txt", PEOPLE.replace("Ada", "Ida"))), 1, seed=0)


def test_write_pairs_refuses_pairs_that_are_never_tested(tmp_path: Path) -> None:
    pairs = read_view_1(file(tmp_path, "a", TEST), file(tmp_path, "b", TRAIN))
    with pytest.raises(PairsError, match="do not fit LFW's format"):
        write_pairs(tmp_path / "c", pairs)
