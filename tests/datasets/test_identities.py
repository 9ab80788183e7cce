from pathlib import Path

import pytest
from hostile_files import damaged, read_or_refuse

from sfplus.datasets.identities import assign_labels, describe_people, is_listable, read_person_list
from sfplus.datasets.records import PeopleRule
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


@pytest.mark.parametrize("name", ["/etc/passwd", "people", "people.yaml", ".txt", "people.txt/.."])
def test_a_file_that_is_not_named_as_a_list_is_not_read(name: str) -> None:
    with pytest.raises(DatasetError, match=r"is not the name of a list of people; end its name in \.txt, \.lst, \.csv"):
        read_person_list(Path(name))


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", None, b"Ada\0Ben\n", b"\x7fELF\1\n"])
def test_missing_and_binary_lists_are_refused(tmp_path: Path, data: bytes | None) -> None:
    if data:
        (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DatasetError, match=r"a\.txt: is not a list of people"):
        read_person_list(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("photos", "people", "line", "warning"),
    [
        (["a/1.jpg", "a/2.jpg", "b/1.jpg"], "path", "3 photos of 2 people", ""),
        (["a/x/1.jpg", "a/y/1.jpg", "b/1.jpg"], "path", "3 photos of 3 people", "counts as a person: a/x, a/y; if"),
        (
            ["a/1.jpg", "a/x/1.jpg", "b/1.jpg"],
            "path",
            "3 photos of 3 people",
            "set people=first-folder (2) or people=last-folder (3)",
        ),
        (
            ["train/a/1.jpg", "val/a/1.jpg", "val/b/1.jpg"],
            "path",
            "3 photos of 3 people",
            "people=first-folder (2) or people=last-folder (2)",
        ),
        (["a/x/1.jpg", "a/y/1.jpg", "b/1.jpg"], "first-folder", "3 photos of 2 people", ""),
        (["train/a/1.jpg", "val/a/1.jpg", "val/b/1.jpg"], "last-folder", "3 photos of 2 people", ""),
    ],
)
def test_people_of_nested_folders_are_described(
    photos: list[str], people: PeopleRule, line: str, warning: str, tmp_path: Path
) -> None:
    described, warned = describe_people(photos, tmp_path, people)
    assert described == line and warning in warned and bool(warning) == bool(warned)
    assert len(assign_labels(photos, people=people)[0]) == int(line.split()[3])


def test_photos_in_no_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"in no person's folder: 1\.jpg, 2\.jpg, 3\.jpg and 2 more; put"):
        describe_people([f"{number}.jpg" for number in range(1, 6)] + ["a/1.jpg"], tmp_path)


@pytest.mark.parametrize(
    "person",
    ["Ada", "Zoë Ünal", "#1 Fan", "p\udcff", "a\nb", "a\x1b[31m", "a\u2028b", " a", "a ", "#", "# a", "", "\ud800"],
)
def test_a_name_is_listable_if_a_list_of_it_is_read_as_the_same_name(tmp_path: Path, person: str) -> None:
    (tmp_path / "list.txt").write_bytes(f"{person}\n".encode("utf-8", "surrogatepass"))
    try:
        read = read_person_list(tmp_path / "list.txt")
    except DatasetError:
        read = ()
    if is_listable(person):
        assert read == (person,)
    else:
        assert read != (person,) or not person.isprintable()


def test_lists_of_people_are_limited_and_damage_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "list.txt"
    for data in damaged(b"# people\nAda\nBen Bo\n", 60, 10):
        path.write_bytes(data)
        read_or_refuse(lambda: read_person_list(path))
    monkeypatch.setenv("SFPLUS_MAX_TEXT_BYTES", "3")
    path.write_text("Adam")
    with pytest.raises(DatasetError, match="has 4 bytes, more than the limit of 3"):
        read_person_list(path)
