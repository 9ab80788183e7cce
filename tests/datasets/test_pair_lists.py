"""Lists of pairs beside LFW's view 2: view 1, the unrestricted setting, plain lists, CFP; and who is in pairs."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfplus.datasets.pairs import (
    Pairs,
    pair_files,
    read_lfw_people,
    read_pairs,
    read_plain,
    read_view_1,
    unrestricted,
    write_pairs,
    write_plain,
)
from sfplus.errors import DatasetError, PairsError

TEST = "1\nAda\t1\t2\nAda\t1\tBob\t12\n"
TRAIN = "2\nEve\t3\t4\nEve\t3\t5\nEve\t1\tMax\t1\nEve\t2\tMax\t1\n"


def file(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_view_1_is_tested_on_its_second_list_only(tmp_path: Path) -> None:
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


def test_people_of_both_views(tmp_path: Path) -> None:
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


PLAIN = [("a/1.jpg", "a/2.PNG", "1"), ("a/1", "b/1.jpg", "0"), ("c d/1.jpg", "c d/2", "true"), ("x.y/1", "b/1", "-1")]


@pytest.mark.parametrize("separator", ["\t", ",", " , ", ", "])
@pytest.mark.parametrize("label_first", [False, True])
def test_plain_lists(tmp_path: Path, separator: str, label_first: bool) -> None:
    rows = [(c, a, b) if label_first else (a, b, c) for a, b, c in PLAIN]
    pairs = read_pairs(
        file(tmp_path, "mine.csv", "\ufeff" + "\r\n".join(separator.join(row) for row in rows) + "\r\n\r\n")
    )
    assert pairs.left == ("a/1", "a/1", "c d/1", "x.y/1") and pairs.right == ("a/2", "b/1", "c d/2", "b/1")
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.fold.tolist() == [0, 0, 1, 1]


def test_plain_lists_separated_by_spaces_and_with_folds(tmp_path: Path) -> None:
    text = "a b 1 0\nb c 0 0\na c 1 1\nc d 0 1\ne f 1 -1\n"
    pairs = read_pairs(file(tmp_path, "mine.txt", text))
    assert pairs.fold.tolist() == [0, 0, 1, 1, -1] and pairs.left == ("a", "b", "a", "c", "e")
    write_plain(tmp_path / "again.txt", pairs)
    again = read_pairs(tmp_path / "again.txt")
    assert (again.left, again.right) == (pairs.left, pairs.right)
    assert np.array_equal(again.fold, pairs.fold) and np.array_equal(again.same, pairs.same)
    with pytest.raises(PairsError, match="cannot be written to a plain list"):
        write_plain(tmp_path / "x", Pairs(("a.jpg",), ("b",), np.array([True]), np.array([0])))


@pytest.mark.parametrize("counts", [(10, 10), (25, 13), (3, 40), (1, 1), (4, 0)])
def test_plain_lists_without_folds_are_cut_in_order_and_by_kind(tmp_path: Path, counts: tuple[int, int]) -> None:
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
def test_malformed_plain_lines_are_named(tmp_path: Path, bad: str, words: str) -> None:
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


def test_folds_with_a_gap_and_empty_lists(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="without a gap") as caught:
        read_pairs(file(tmp_path, "x.txt", "a b 1 0\nc d 0 2\n"))
    assert caught.value.where == str(tmp_path / "x.txt")
    with pytest.raises(PairsError, match="is empty"):
        read_plain(file(tmp_path, "y.txt", "\n"))


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
def test_any_file_is_read_or_refused_with_its_place(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "pairs.txt"
    path.write_bytes(data)
    try:
        pairs = read_pairs(path)
    except PairsError as error:
        assert error.where.startswith(str(path)) and error.reason
    else:
        assert all(".." not in name.split("/") and not name.startswith("/") for name in pairs.photos)


@pytest.fixture
def cfp(tmp_path: Path) -> Path:
    """The official layout with 3 people and 2 folds."""
    root = tmp_path / "cfp-dataset/Protocol"
    for kind, number, name in (("F", 10, "frontal"), ("P", 4, "profile")):
        lines = [f"../Data/Images/{p:03d}/{name}/{n:02d}.jpg" for p in (1, 2, 3) for n in range(1, number + 1)]
        root.mkdir(parents=True, exist_ok=True)
        (root / f"Pair_list_{kind}.txt").write_text("".join(f"{i} {line}\n" for i, line in enumerate(lines, 1)))
    for kind, same, diff in (("FF", "1,2\n11,12\n", "1,11\n2,21\n"), ("FP", "1,2\n11,5\n", "1,5\n2,12\n")):
        for fold in ("01", "02"):
            (root / "Split" / kind / fold).mkdir(parents=True)
            (root / "Split" / kind / fold / "same.txt").write_text(same)
            (root / "Split" / kind / fold / "diff.txt").write_text(diff)
    return root / "Split"


def test_cfp(cfp: Path) -> None:
    pairs = read_pairs(cfp / "FP")
    assert pairs.left[:4] == ("001/frontal/01", "002/frontal/01", "001/frontal/01", "001/frontal/02")
    assert pairs.right[:4] == ("001/profile/02", "002/profile/01", "002/profile/01", "003/profile/04")
    assert pairs.same.tolist() == [True, True, False, False] * 2 and pairs.fold.tolist() == [0] * 4 + [1] * 4
    assert pairs.people.names == ("001", "002", "003/profile")
    assert read_pairs(cfp / "FF").right[:2] == ("001/frontal/02", "002/frontal/02")
    assert len(pair_files(cfp / "FP")) == 2 + 4


@pytest.mark.parametrize(
    ("name", "old", "new", "line"),
    [
        ("Split/FP/02/diff.txt", "2,12", "2,13", 2),
        ("Split/FP/02/diff.txt", "2,12", "2", 2),
        ("Split/FP/02/diff.txt", "2,12", "2,12,1", 2),
        ("Split/FP/01/same.txt", "1,2", "x,2", 1),
        ("Split/FP/01/same.txt", "1,2", "-1,2", 1),
        ("Pair_list_P.txt", "3 ../Data/Images/001", "3 /Data/Images/001", 3),
        ("Pair_list_P.txt", "3 ../Data/Images/001", "3 ../../Images/001", 3),
        ("Pair_list_P.txt", "3 ../Data", "x ../Data", 3),
        ("Pair_list_F.txt", "1 ../Data/Images/001/frontal/01.jpg", "1", 1),
    ],
)
def test_malformed_cfp_names_the_line(cfp: Path, name: str, old: str, new: str, line: int) -> None:
    path = cfp.parent / name
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(PairsError) as caught:
        read_pairs(cfp / "FP")
    assert caught.value.where == f"{path}:{line}" and caught.value.remedy


def test_folders_that_are_not_cfp(cfp: Path, tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="give its folder Protocol/Split/FP or FF"):
        read_pairs(cfp)
    (tmp_path / "FP").mkdir()
    with pytest.raises(PairsError, match="contains no folds of CFP"):
        read_pairs(tmp_path / "FP")
    (cfp / "FP/02/diff.txt").unlink()
    with pytest.raises(PairsError, match=r"diff.txt: cannot be read"):
        read_pairs(cfp / "FP")


def pairs_of(rows: list[tuple[str, str, bool]]) -> Pairs:
    left, right, same = zip(*rows, strict=True)
    return Pairs(left, right, np.array(same), np.zeros(len(rows), np.int64))


def test_people_are_folders_joined_by_same_pairs() -> None:
    people = pairs_of([("A/1", "A/2", True), ("A/1", "B/1", False), ("C/f/1", "C/p/1", True)]).people
    assert people.names == ("A", "B", "C")
    assert (people.left.tolist(), people.right.tolist()) == ([0, 0, 2], [0, 1, 2])


def test_people_without_folders_are_joined_by_same_pairs_only() -> None:
    people = pairs_of([("1", "2", True), ("2", "3", False), ("3", "4", True), ("5", "1", False)]).people
    assert people.left.tolist() == [0, 0, 1, 2] and people.right.tolist() == [0, 1, 1, 0]
    people = pairs_of([("all/1", "all/2", True), ("all/1", "all/3", False)]).people
    assert people.right.tolist() == [0, 1], "one folder holds everybody"


def test_chosen_pairs() -> None:
    pairs = pairs_of([("A/1", "A/2", True), ("A/1", "B/1", False)])
    assert pairs[np.array([False, True])].right == ("B/1",)
    assert pairs.tested is pairs


def test_write_pairs_refuses_pairs_that_are_never_tested(tmp_path: Path) -> None:
    pairs = read_view_1(file(tmp_path, "a", TEST), file(tmp_path, "b", TRAIN))
    with pytest.raises(PairsError, match="do not fit LFW's format"):
        write_pairs(tmp_path / "c", pairs)
