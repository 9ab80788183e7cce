from pathlib import Path

import pytest

from sfplus.datasets.identities import assign_labels, read_person_list
from sfplus.errors import DatasetError


def test_people_are_numbered_in_sorted_order() -> None:
    people, labels, names = assign_labels(["b/2.jpg", "a/1.jpg", "c/1.jpg", "b/1.jpg"], exclude=["c", "unknown"])
    assert people == ["a", "b"] and labels == [0, 1, 1] and names == ["a/1.jpg", "b/1.jpg", "b/2.jpg"]


@pytest.mark.parametrize(
    ("photos", "says"),
    [
        (["1.jpg", "a/1.jpg"], "not in a person's folder"),
        (["a/1.jpg", "a/2.jpg"], "contains photos of 1 person"),
        ([], "0 people"),
    ],
)
def test_sets_without_two_people_are_refused(photos: list[str], says: str) -> None:
    with pytest.raises(DatasetError, match=says):
        assign_labels(photos)


def test_lists_of_people_have_comments(tmp_path: Path) -> None:
    (tmp_path / "people.txt").write_text("\ufeff# in the test set\nAda\n\n#1 Fan\n#\n  Ben  \nAda\n", "utf-8")
    assert read_person_list(tmp_path / "people.txt") == ("Ada", "#1 Fan", "Ben")


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", None])
def test_missing_and_binary_lists_are_refused(tmp_path: Path, data: bytes | None) -> None:
    if data:
        (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DatasetError, match=r"a\.txt: is not a list of people"):
        read_person_list(tmp_path / "a.txt")
