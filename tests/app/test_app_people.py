"""The people of a grouped folder: gallery, names, moved faces, photos and search, without a server."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfplus.app.people import PeopleFolder
from sfplus.app.uploads import UploadReader
from sfplus.errors import PhotoError, SfplusError, UsageError
from sfplus.people.grouped_photos import GroupedPhotos
from sfplus.people.names import save_changes
from sfplus.people.regroup import regroup


@pytest.fixture
def people(grouped: Path, reader: UploadReader) -> PeopleFolder:
    return PeopleFolder(grouped, reader)


def addresses(page: str) -> list[str]:
    return re.findall('href="(photos/.*?)"', page)


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_gallery_shows_photos_by_routes_of_the_server(people: PeopleFolder) -> None:
    page = people.page("people", "the-token", [("", "People"), ("search", "Search")])
    table = people.grouped.table
    assert set(addresses(page)) == {f"photos/{digest}" for digest in table["digest"]}
    assert "file:" not in page and '"save":"people","token":"the-token"' in page
    assert '<a aria-current="page">People</a>' in page and '<a href="search">Search</a>' in page
    assert people.page("people", "the-token", [("", "People"), ("search", "Search")]) is page, "drawn again"


def test_names_and_moved_faces_are_saved_and_shown(people: PeopleFolder, grouped: Path) -> None:
    table = people.grouped.table
    person = table["person"][0]
    moved = next(row for row in range(len(table["photo"])) if table["photo"][row] == "two faces.png")
    people.save({person: "Zoë  <b>"}, [("two faces.png", table["face"][moved], "Ben")])
    assert {row["person"]: row["name"] for row in rows(grouped, "people.csv")}[person] == "Zoë <b>"
    assert rows(grouped, "corrections.csv")[0]["photo"] == "two faces.png"
    assert people.grouped.table["name"][moved] == "Ben"
    page = people.page("people", "", [])
    assert 'value="Zoë &lt;b&gt;"' in page and 'value="Ben"' in page and "<b>" not in page


def test_changes_from_outside_are_shown(people: PeopleFolder, grouped: Path) -> None:
    people.page("people", "", [])
    save_changes(grouped, {people.grouped.table["person"][0]: "Anna"}, [])
    regroup(grouped)
    assert 'value="Anna"' in people.page("people", "", [])


@pytest.mark.parametrize(
    ("names", "moves", "message"),
    [
        ({"person-99999": "x"}, [], "person-99999: there is no such person; reload the page"),
        ({"../x": "x"}, [], "../x: there is no such person"),
        ({"person-00001": "x" * 201}, [], "is too long or not printable; use another name"),
        ({"person-00001": "a\x1b[31m"}, [], "is too long or not printable; use another name"),
        ({"person-00001": "a\nb"}, [], "is too long or not printable; use another name"),
        ({}, [("../x.jpg", 0, "Ben")], "../x.jpg: has no face 0; reload the page"),
        ({}, [("two faces.png", 7, "Ben")], "two faces.png: has no face 7; reload the page"),
        ({}, [("two faces.png", 0, "person-99999")], "person-99999: there is no such person"),
        ({}, [("two faces.png", 0, "a\0b")], "is too long or not printable; use another name"),
    ],
)
def test_changes_of_what_is_not_there_are_refused_and_nothing_is_written(
    names: dict[str, str], moves: Sequence[tuple[str, int, str]], message: str, people: PeopleFolder, grouped: Path
) -> None:
    before = (grouped / "people.csv").read_bytes()
    with pytest.raises(UsageError) as raised:
        people.save(names, moves)
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert (grouped / "people.csv").read_bytes() == before and not (grouped / "corrections.csv").exists()


@pytest.mark.slow
def test_photos_of_the_folder_are_served_smaller(people: PeopleFolder) -> None:
    table = people.grouped.table
    Image.new("RGB", (4000, 2000), "red").save(people.grouped.photos / "two faces.png")
    photo = people.photo(table["digest"][table["photo"].index("two faces.png")])
    assert photo is not None
    with Image.open(io.BytesIO(photo)) as image:
        assert (image.format, image.size) == ("JPEG", (1600, 800))
    for name in ("", "x", "..", "../out", "two faces.png", str(people.grouped.photos / "two faces.png")):
        assert people.photo(name) is None
    gone = table["digest"][table["photo"].index("gone.png")]
    with pytest.raises(PhotoError, match=r"gone.png: there is no such file any more; run sfplus group again"):
        people.photo(gone)


def change_names(folder: Path, change: Callable[[str], str]) -> None:
    grouped = GroupedPhotos.load(folder)
    replace(grouped, table=grouped.table | {"photo": [change(name) for name in grouped.table["photo"]]}).save()


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../outside.png", "a/../../outside.png", ".hidden.png", ".git/a.png", "a/.git/b.png"],
)
def test_a_table_cannot_name_files_outside_the_folder_or_hidden_ones(
    name: str, grouped: Path, reader: UploadReader, tmp_path: Path
) -> None:
    photos = tmp_path / "in"
    (photos / "a" / ".git").mkdir(parents=True)
    (photos / ".git").mkdir()
    for path in ("../outside.png", ".hidden.png", ".git/a.png", "a/.git/b.png"):
        Image.new("RGB", (9, 9)).save(photos / path)
    change_names(grouped, lambda _: name)
    replace(GroupedPhotos.load(grouped), photos=photos).save()
    people = PeopleFolder(grouped, reader)
    assert all(people.photo(digest) is None for digest in people.grouped.table["digest"])
    assert addresses(people.page("people", "", [])) == []


def test_the_photos_of_a_person_are_listed_best_first(people: PeopleFolder) -> None:
    grouped = people.grouped
    row = grouped.table["photo"].index("two faces.png")
    page = people.search(grouped.features[row])
    listed = addresses(page)
    assert listed[0] in {f"photos/{grouped.table['digest'][n]}" for n in range(len(grouped.features))
                         if np.array_equal(grouped.features[n], grouped.features[row])}  # fmt: skip
    assert len(set(listed)) == len(listed) == len(set(grouped.table["photo"]))  # one face of each photo
    chances = [float(text) for text in re.findall(r'<p class="chance">(?:over |under )?(\d+) %', page)]
    assert len(chances) == len(listed) and chances == sorted(chances, reverse=True)


@pytest.mark.parametrize("damage", ["empty", "no group", "a file", "no table"])
def test_a_folder_that_is_not_grouped_is_refused(
    damage: str, grouped: Path, reader: UploadReader, tmp_path: Path
) -> None:
    if damage == "no table":
        (grouped / "people.parquet").unlink()
    folder = {"empty": tmp_path / "nowhere", "no group": tmp_path, "a file": grouped / "people.csv"}.get(
        damage, grouped
    )
    with pytest.raises(SfplusError, match=r"sfplus group|people.parquet") as raised:
        PeopleFolder(folder, reader)
    assert isinstance(raised.value, UsageError) == (damage != "no table")
