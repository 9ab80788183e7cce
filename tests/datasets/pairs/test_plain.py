from pathlib import Path

import numpy as np
import pytest

from sfplus.datasets.pairs import Pairs, read_pairs, read_plain, write_plain
from sfplus.errors import PairsError


def file(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


PLAIN = [("a/1.jpg", "a/2.PNG", "1"), ("a/1", "b/1.jpg", "0"), ("c d/1.jpg", "c d/2", "true"), ("x.y/1", "b/1", "-1")]
LEFT, RIGHT, SAME = ("a/1.jpg", "a/1", "c d/1.jpg", "x.y/1"), ("a/2.PNG", "b/1.jpg", "c d/2", "b/1"), [True, False] * 2


@pytest.mark.parametrize("separator", ["\t", ",", ";", " , ", ", ", "; "])
@pytest.mark.parametrize("label_first", [False, True])
@pytest.mark.parametrize("header", [(), ("one", "two", "three"), ("image1", "image2", "same")])
def test_separators_headers_and_the_order_of_fields_are_recognised(
    tmp_path: Path, separator: str, label_first: bool, header: tuple[str, ...]
) -> None:
    rows = [(c, a, b) if label_first else (a, b, c) for a, b, c in PLAIN]
    rows = [header, *rows] if header else rows
    text = "\ufeff" + "\r\n".join(separator.join(row) for row in rows) + "\r\n\r\n"
    pairs = read_pairs(file(tmp_path, "pairs.csv", text))
    assert (pairs.left, pairs.right, pairs.same.tolist()) == (LEFT, RIGHT, SAME)
    assert pairs.fold.tolist() == [0, 0, 1, 1]


def test_names_are_quoted_between_spaces(tmp_path: Path) -> None:
    text = 'a/1.jpg a/2.PNG 1\na/1   b/1.jpg 0  # a comment\n"c d/1.jpg" "c d/2" true\n"x.y/1"\tb/1 -1\n'
    pairs = read_pairs(file(tmp_path, "pairs.txt", text))
    assert (pairs.left, pairs.right, pairs.same.tolist()) == (LEFT, RIGHT, SAME)


LABELS = [("1", "0"), ("1.0", "0.0"), ("1", "-1"), ("+1", "-1"), ("yes", "no"), ("Yes", "NO"), ("y", "n"),
          ("true", "false"), ("True", "False"), ("SAME", "Different"), ("same", "diff"), ("match", "mismatch"),
          ("genuine", "impostor"), ("positive", "negative"), ("T", "F"), ("pos", "neg"), ("1.00", "0.00"),
          ("1.000000000000000000e+00", "0.000000000000000000e+00"), ("match", "non-match"), ("match", "no_match"),
          ("mated", "non-mated"), ("matched", "mismatched")]  # fmt: skip


@pytest.mark.parametrize(("same", "different"), LABELS)
@pytest.mark.parametrize("form", ["{a} {b} {label}", "{label},{a},{b}", "{a};{b};{label};0"])
def test_labels(tmp_path: Path, same: str, different: str, form: str) -> None:
    lines = [form.format(a="a", b="b", label=same), form.format(a="c", b="d", label=different)]
    assert read_pairs(file(tmp_path, "x.txt", "\n".join(lines))).same.tolist() == [True, False]


@pytest.mark.parametrize("separator", [",", ";", "\t", " ", " ; "])
@pytest.mark.parametrize("comment", [" # a note", "  #no", " # one, two; three 4", "\t# x"])
@pytest.mark.parametrize(
    "rows", [("a{}b{}1", "c{}d{}0"), ("a{}b{}1{}0", "c{}d{}0{}0"), ("Ada{}1{}2", "Ada{}1{}Bob{}2")]
)
def test_comments_behind_a_pair_are_left_out(
    tmp_path: Path, rows: tuple[str, str], separator: str, comment: str
) -> None:
    lines = [row.replace("{}", separator) for row in rows]
    expected = read_pairs(file(tmp_path, "x.txt", "\n".join(lines)))
    for commented in ([0], [1], [0, 1]):
        text = "\n".join(line + comment * (i in commented) for i, line in enumerate(lines))
        pairs = read_pairs(file(tmp_path, "x.txt", text))
        assert (pairs.left, pairs.right, pairs.same.tolist()) == (
            expected.left, expected.right, expected.same.tolist()
        ), text  # fmt: skip


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("photo #1.jpg,photo #2.jpg,1", ("photo #1.jpg", "photo #2.jpg")),
        ("1,photo #1.jpg,photo #2.jpg", ("photo #1.jpg", "photo #2.jpg")),
        ("a#1,b#2,1", ("a#1", "b#2")),
        ("'a b.jpg' 'c, d.jpg' 1", ("a b.jpg", "c, d.jpg")),
        ("'a b.jpg','c, d.jpg','1'", ("a b.jpg", "c, d.jpg")),
        ("1;'a b.jpg';'c; d.jpg'", ("a b.jpg", "c; d.jpg")),
        ("'t Hooft/1.jpg,O'Brien/1.jpg,1", ("'t Hooft/1.jpg", "O'Brien/1.jpg")),
        ("O'Brien/1.jpg 't_Hooft/1.jpg 1", ("O'Brien/1.jpg", "'t_Hooft/1.jpg")),
        ('"O\'Brien, A./1.jpg","b",1', ("O'Brien, A./1.jpg", "b")),
    ],
)
def test_names_with_hashes_quotes_and_apostrophes(tmp_path: Path, line: str, names: tuple[str, str]) -> None:
    pairs = read_pairs(file(tmp_path, "x.txt", f"{line}\n{line}\n"))
    assert (pairs.left, pairs.right) == ((names[0],) * 2, (names[1],) * 2) and pairs.same.all()


def test_an_index_or_a_fold_in_front_is_no_label(tmp_path: Path) -> None:
    rows = [("a", "b", 1), ("c", "d", 0), ("e", "f", 1), ("g", "h", 0)]
    for numbers, folds in (((0, 1, 2, 3), [0, 0, 1, 1]), ((1, 1, 2, 2), [0, 0, 1, 1])):
        text = "".join(f"{number},{a},{b},{same}\n" for number, (a, b, same) in zip(numbers, rows, strict=True))
        pairs = read_pairs(file(tmp_path, "x.txt", text))
        assert pairs.left == ("a", "c", "e", "g") and pairs.same.tolist() == [True, False] * 2
        assert pairs.fold.tolist() == folds
    with pytest.raises(PairsError, match="two fields that could be the label") as caught:
        read_pairs(file(tmp_path, "x.txt", "0,a,b,1\n0,c,d,0\n1,e,f,1\n1,g,h,0\n"))
    assert caught.value.where.endswith(":1") and "header" in caught.value.remedy


@pytest.mark.parametrize("first", ["a,b,2", "a,b,0.5", "a/1,b/1,maybe", "a.jpg,b.jpg,maybe", "a\\1,b\\1,c"])
def test_a_wrong_first_line_is_not_taken_for_a_header(tmp_path: Path, first: str) -> None:
    path = file(tmp_path, "x.txt", f"{first}\na,c,1\nb,d,0\n")
    with pytest.raises(PairsError, match="is not a pair") as caught:
        read_pairs(path)
    assert caught.value.where == f"{path}:1"


def test_the_line_below_a_header_is_shown_if_it_is_wrong(tmp_path: Path) -> None:
    path = file(tmp_path, "x.csv", "left,right,label\na.jpg,b.jpg,perhaps\nc.jpg,d.jpg,perhaps not\n")
    with pytest.raises(PairsError, match=r"'a.jpg,b.jpg,perhaps' is not a pair") as caught:
        read_pairs(path)
    assert caught.value.where == f"{path}:2"
    with pytest.raises(PairsError, match="no name of a photo where one is expected"):
        read_pairs(file(tmp_path, "x.csv", "left,right,label\na,,1\n"))


def test_columns_that_a_header_calls_something_else_are_left_out(tmp_path: Path) -> None:
    for text in (
        "a,b,label,score\nx.jpg,y.jpg,1,0\nz.jpg,w.jpg,0,1\n",
        "name1,name2,path1,path2,label\nX,X,x.jpg,y.jpg,1\nZ,W,z.jpg,w.jpg,0\n",
    ):
        pairs = read_pairs(file(tmp_path, "x.csv", text))
        assert (pairs.left, pairs.right, pairs.folds) == (("x.jpg", "z.jpg"), ("y.jpg", "w.jpg"), 1), text
        assert pairs.same.tolist() == [True, False]


def test_a_header_names_the_columns(tmp_path: Path) -> None:
    """pandas writes an index; a fold may come first."""
    for text in (
        ",left,right,label\n0,a,b,1\n1,c,d,0\n",
        "index,fold,path_a,path_b,is_same\n0,0,a,b,1\n1,0,c,d,0\n",
        "fold;label;left;right\n0;1;a;b\n0;0;c;d\n",
    ):
        pairs = read_pairs(file(tmp_path, "x.csv", text))
        assert (pairs.left, pairs.right, pairs.same.tolist()) == (("a", "c"), ("b", "d"), [True, False]), text


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("./a/1.jpg", "a/1.jpg"), ("././a/1", "a/1"), ("a\\1.jpg", "a/1.jpg"), (".\\a\\1.jpg", "a/1.jpg"),
        ("/data/lfw/a/1.jpg", "data/lfw/a/1.jpg"), ("C:\\lfw\\a\\1.jpg", "lfw/a/1.jpg"), ("a//1.jpg", "a/1.jpg"),
    ],
)  # fmt: skip
def test_paths_are_relative_and_have_slashes(tmp_path: Path, name: str, read: str) -> None:
    assert read_pairs(file(tmp_path, "x.txt", f"{name},b,1\nb,c,0\n")).left[0] == read


def test_lists_with_folds_are_read_and_written(tmp_path: Path) -> None:
    text = "a b 1 0\nb c 0 0\na c 1 1\nc d 0 1\ne f 1 -1\n"
    pairs = read_pairs(file(tmp_path, "pairs.txt", text))
    assert pairs.fold.tolist() == [0, 0, 1, 1, -1] and pairs.left == ("a", "b", "a", "c", "e")
    pairs = Pairs((*pairs.left[:4], "x y.jpg"), pairs.right, pairs.same, pairs.fold)
    write_plain(tmp_path / "again.txt", pairs)
    again = read_pairs(tmp_path / "again.txt")
    assert (again.left, again.right) == (pairs.left, pairs.right)
    assert np.array_equal(again.fold, pairs.fold) and np.array_equal(again.same, pairs.same)
    with pytest.raises(PairsError, match="cannot be written to a plain list"):
        write_plain(tmp_path / "x", Pairs(("a\tb",), ("b",), np.array([True]), np.array([0])))
    assert read_pairs(file(tmp_path, "one.txt", "a b 1 1\nb c 0 1\na c 1 2.0\nc d 0 2\n")).fold.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "name",
    ["#1/a", "'a'/b", 'a"/b', " a/b", "a/b ", "a\nb/c", "a\x85/c", "\ufeffa/b", "\udcff/a"],
)
def test_names_that_would_be_read_as_others_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PairsError, match="cannot be written to a plain list"):
        write_plain(tmp_path / "x", Pairs((name, "a"), ("b", "c"), np.array([True, False]), np.array([0, 0])))


@pytest.mark.parametrize("name", ["a #1/b", "O'Neil, Ann/1", "a; b/c d", "a /b", "a'/b'", "u\u0308/a.b", "b#/#1"])
def test_unusual_names_are_written_and_read(tmp_path: Path, name: str) -> None:
    pairs = Pairs((name, "a"), ("b", name), np.array([True, False]), np.array([0, 0]))
    write_plain(tmp_path / "x", pairs)
    again = read_plain(tmp_path / "x")
    assert (again.left, again.right) == (pairs.left, pairs.right)


def test_folds_can_be_replaced(tmp_path: Path) -> None:
    path = file(tmp_path, "x.txt", "a b 1 0\nc d 0 0\n" * 6)
    assert read_pairs(path).folds == 1 and read_pairs(path, 3).fold.tolist() == [k for k in (0, 1, 2) for _ in range(4)]
    with pytest.raises(PairsError, match="6 pairs of the same person and 6 of different people cannot be split into 7"):
        read_pairs(path, 7)
    with pytest.raises(PairsError, match="holds pairs that only choose thresholds"):
        read_pairs(file(tmp_path, "x.txt", "a b 1 0\nc d 0 0\na c 1 -1\n"), 2)


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
        ("a b", "not a pair"), ("a b 2", "not a pair"), ("a b 1 0", "not a pair"), ("a b c 1", "not a pair"),
        ('"a b 1', "not a pair"), ("a b maybe", "'a b maybe' is not a pair"),
        ("../a b 1", "outside the folder"), ("a b/../c 1", "outside the folder"), ("a ..\\b 1", "outside the folder"),
        ("a . 1", "outside the folder"), ("/ b 1", "outside the folder"),
    ],
)  # fmt: skip
def test_malformed_lines_are_named(tmp_path: Path, bad: str, words: str) -> None:
    path = file(tmp_path, "x.txt", f"a b 1\nc d 0\n{bad}\ne f 1\n")
    with pytest.raises(PairsError, match=words) as caught:
        read_pairs(path)
    assert caught.value.where == f"{path}:3" and caught.value.remedy
    assert words != "not a pair" or "accepted are lines 'path path label'" in caught.value.remedy


@pytest.mark.parametrize("fold", ["x", "1.5", "--1", "1234567", "²"])
def test_malformed_folds_are_named(tmp_path: Path, fold: str) -> None:
    path = file(tmp_path, "x.txt", f"a b 1 0\nc d 0 {fold}\n")
    with pytest.raises(PairsError, match="is not a whole number") as caught:
        read_pairs(path)
    assert caught.value.where == f"{path}:2"


def test_folds_with_a_gap_and_empty_lists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="without a gap") as caught:
        read_pairs(file(tmp_path, "x.txt", "a b 1 0\nc d 0 2\n"))
    assert caught.value.where == str(tmp_path / "x.txt")
    with pytest.raises(PairsError, match="is empty"):
        read_plain(file(tmp_path, "y.txt", "\n"))
