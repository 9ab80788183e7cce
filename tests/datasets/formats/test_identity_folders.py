from __future__ import annotations

from pathlib import Path

import pytest
from collection_writers import encode, random_crop, write_folders

from sfplus.datasets.collections import open_collection
from sfplus.datasets.formats.identity_folders import IdentityFolders
from sfplus.datasets.identities import assign_labels
from sfplus.datasets.records import PeopleRule
from sfplus.errors import PhotoError
from sfplus.images import list_photos


def test_photos_have_the_order_of_training_labels(tmp_path: Path) -> None:
    write_folders(tmp_path, {"b": 2, "a": 1, "a b": 1, "a/c": 1})
    collection = open_collection(tmp_path)
    _, _, photos = assign_labels(list_photos(tmp_path))
    assert [record.name for record in collection.records()] == photos
    assert [record.person for record in collection.records()] == ["a", "a b", "a/c", "b", "b"]
    assert [record.name for record in collection.records(3)] == photos[3:]
    assert collection.files() == [tmp_path / photo for photo in photos]


@pytest.mark.parametrize(
    ("rule", "people", "warns"),
    [
        ("path", ["Ada/2019", "Ada/2020", "Ben", "train/Cyd"], True),
        ("first-folder", ["Ada", "Ben", "train"], False),
        ("last-folder", ["2019", "2020", "Ben", "Cyd"], False),
    ],
)
def test_the_person_in_nested_folders_is_chosen(
    rule: PeopleRule, people: list[str], warns: bool, tmp_path: Path
) -> None:
    write_folders(tmp_path, {"Ada/2019": 1, "Ada/2020": 2, "Ben": 1, "train/Cyd": 1})
    collection = open_collection(tmp_path, people=rule)
    _, labels, photos = assign_labels(list_photos(tmp_path), people=rule)
    assert [record.name for record in collection.records()] == photos
    assert [record.person for record in collection.records()] == [people[label] for label in labels]
    assert collection.summary == f"5 photos of {len(people)} people"
    nested = "each of these folders counts as a person: Ada/2019, Ada/2020, train/Cyd; if that is wrong, set "
    assert list(collection.warnings) == [f"{nested}--people first-folder (3) or --people last-folder (4)"] * warns


def test_files_that_are_left_out_are_named(tmp_path: Path) -> None:
    write_folders(tmp_path, {"Ada": 1, "Ben": 1})
    for name in ("b.jpg", "a.jpg", "Ada/film.mp4", "Ben/x.nef", "@eaDir/thumbnail.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    collection = open_collection(tmp_path)
    stray, *left_out = collection.warnings
    assert collection.summary == "2 photos of 2 people" and len(collection) == 4
    assert stray == "these photos are in no person's folder: a.jpg, b.jpg; they are left out"
    for text, part in zip(left_out, ("1 video is left out", "(.nef 1)", "(@eaDir 1)"), strict=True):
        assert part in text


def test_photos_without_a_person_are_errors(tmp_path: Path) -> None:
    write_folders(tmp_path, {"Ada": 1})
    (tmp_path / "stray.png").write_bytes(encode(random_crop(0)))
    stray, ada = open_collection(tmp_path).records()
    assert ada.person == "Ada"
    with pytest.raises(PhotoError, match=r"stray\.png: is not in a person's folder"):
        stray.decode()


def test_empty_folders_are_a_warning(tmp_path: Path) -> None:
    write_folders(tmp_path, {"Ada": 1})
    for name in ("Zoe", "Ben", ".hidden"):
        (tmp_path / name).mkdir()
    (warning,) = open_collection(tmp_path).warnings
    assert warning == "2 folders contain no photo and are not counted as people, for example Ben"


def test_other_paths_have_another_format(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert IdentityFolders.open(tmp_path / "a.png", "") is None
    (tmp_path / "a.png").unlink()
    assert IdentityFolders.open(tmp_path, "") is None
