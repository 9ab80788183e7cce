from pathlib import Path

import pytest

from sfplus.datasets.pairs import pair_files, read_pairs
from sfplus.errors import PairsError


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


def test_pairs_of_both_protocols(cfp: Path) -> None:
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


def test_other_folders_are_refused(cfp: Path, tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="give its folder Protocol/Split/FP or FF"):
        read_pairs(cfp)
    (tmp_path / "FP").mkdir()
    with pytest.raises(PairsError, match="contains no folds of CFP"):
        read_pairs(tmp_path / "FP")
    (cfp / "FP/02/diff.txt").unlink()
    with pytest.raises(PairsError, match=r"diff.txt: cannot be read"):
        read_pairs(cfp / "FP")
