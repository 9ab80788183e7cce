"""Groups, names and corrections from run to run: what is written, and what survives."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sfplus.errors import ArtefactError, DatasetError, SfplusError, UsageError
from sfplus.people.grouped_photos import GroupedPhotos
from sfplus.people.names import save_changes
from sfplus.people.regroup import regroup

Make = Callable[..., GroupedPhotos]


def people_of(out: Path) -> dict[str, str]:
    """The name or id of the person of each photo in people.parquet."""
    table = pq.read_table(out / "people.parquet").to_pydict()
    return {
        photo: name or person
        for photo, person, name in zip(*(table[key] for key in ("photo", "person", "name")), strict=True)
    }


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def name_people(out: Path, **names: str) -> None:
    """Write names into people.csv, as a user does."""
    rows = read_csv(out / "people.csv")
    for row in rows:
        row["name"] = names.get(row["person"].replace("-", "_"), row["name"])
    with (out / "people.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def folders(out: Path) -> dict[str, list[str]]:
    return {
        folder.name: sorted(path.name for path in folder.iterdir()) for folder in sorted((out / "people").iterdir())
    }


def test_people_are_written_as_tables_folders_and_a_page(make_grouped: Make) -> None:
    out = make_grouped().folder
    grouped = regroup(out)
    assert people_of(out) == {
        **{f"anna-{number}.jpg": "person-00001" for number in range(4)},
        **{f"ben-{number}.jpg": "person-00002" for number in range(3)},
        "cleo-0.jpg": "person-00003",
    }
    assert read_csv(out / "people.csv")[0] == {"person": "person-00001", "name": "", "photos": "4", "faces": "4"}
    assert folders(out) == {"person-00001": [f"anna-{n}.jpg" for n in range(4)],
                            "person-00002": [f"ben-{n}.jpg" for n in range(3)]}  # fmt: skip
    assert (out / "people/person-00001/anna-0.jpg").resolve() == grouped.photos / "anna-0.jpg"
    assert min(grouped.table["confidence"]) > 0.9
    page = (out / "people.html").read_text("utf-8")
    assert "person-00002" in page and page.count("data:image/jpeg") >= 8
    assert not (out / "corrections.csv").exists()


def test_a_second_run_writes_the_same(make_grouped: Make) -> None:
    out = make_grouped().folder
    regroup(out)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    regroup(out)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_names_survive_new_photos_and_renamed_and_removed_ones(make_grouped: Make) -> None:
    out = make_grouped().folder
    regroup(out)
    name_people(out, person_00001="Anna", person_00002="Ben/Jr.")
    regroup(out)
    assert sorted(folders(out)) == ["Anna", "Ben Jr"]
    photos = ["anna-0.jpg", "anna-1.jpg", "anna-7.jpg", "ben-1.jpg", "dora-0.jpg", "dora-1.jpg", "moved/anna-2.jpg"]
    (out.parent / "photos" / "moved").mkdir()
    grouped = make_grouped(photos)
    grouped.table["digest"][6] = f"{'anna-2.jpg':-<64}"
    grouped.save()
    regroup(out)
    expected = {photo: "Anna" for photo in photos if "anna" in photo} | {"ben-1.jpg": "Ben/Jr."}
    assert people_of(out) == expected | {"dora-0.jpg": "person-00004", "dora-1.jpg": "person-00004"}
    assert folders(out)["Anna"] == ["anna-0.jpg", "anna-1.jpg", "anna-7.jpg", "moved"]
    make_grouped(["dora-0.jpg", "dora-1.jpg"])
    regroup(out)
    assert [row["name"] for row in read_csv(out / "people.csv")] == ["", "Anna", "Ben/Jr."]  # with no photo
    make_grouped()
    regroup(out)
    assert people_of(out)["anna-3.jpg"] == "Anna" and people_of(out)["ben-0.jpg"] == "Ben/Jr."


def test_two_people_with_the_same_name_become_one(make_grouped: Make) -> None:
    out = make_grouped().folder
    regroup(out)
    name_people(out, person_00001="Anna", person_00003="Anna")
    regroup(out)
    assert people_of(out)["cleo-0.jpg"] == "Anna" and len(read_csv(out / "people.csv")) == 2
    make_grouped(["anna-0.jpg", "anna-1.jpg", "cleo-0.jpg", "cleo-1.jpg"])
    regroup(out)
    assert set(people_of(out).values()) == {"Anna"}  # the new photo of cleo as well


@pytest.mark.parametrize("person", ["Zoe", "", "person-00002"])
def test_moved_faces_stay_where_they_were_moved(make_grouped: Make, person: str) -> None:
    out = make_grouped().folder
    regroup(out)
    moved = "anna-0.jpg"
    save_changes(out, {}, [(moved, 0, person)])
    expected = {"Zoe": "Zoe", "": "person-00004", "person-00002": "person-00002"}[person]
    names = [f"anna-{number}.jpg" for number in range(6)] + [f"ben-{number}.jpg" for number in range(3)]
    for photos in (None, names):
        make_grouped(photos)
        regroup(out)
        people = people_of(out)
        assert people[moved] == expected
        assert {people[f"anna-{number}.jpg"] for number in range(1, 4)} == {"person-00001"}
    assert people["anna-5.jpg"] in ("person-00001", expected)
    assert read_csv(out / "corrections.csv")[0]["person"] != person or person.startswith("person-")


def test_names_that_look_equal_are_equal(make_grouped: Make) -> None:
    out = make_grouped().folder
    regroup(out)
    name_people(out, person_00001="Zoe\u0308 ", person_00003="Zo\u00eb")
    regroup(out)
    assert people_of(out)["cleo-0.jpg"] == people_of(out)["anna-0.jpg"] == "Zo\u00eb"


def test_a_photo_whose_name_begins_with_a_space_can_be_moved(make_grouped: Make) -> None:
    names = ["anna-0.jpg", "anna-1.jpg", " anna-2.jpg"]
    out = make_grouped(names).folder
    regroup(out)
    save_changes(out, {}, [(names[2], 0, "Zoe")])
    regroup(out)
    assert people_of(out)[names[2]] == "Zoe"


def test_changes_of_the_page_are_added_to_the_files(make_grouped: Make) -> None:
    out = make_grouped().folder
    regroup(out)
    save_changes(out, {"person-00001": "  Anna   K. "}, [("ben-0.jpg", 0, "Ben, junior")])
    regroup(out)
    assert people_of(out)["anna-0.jpg"] == "Anna K." and people_of(out)["ben-0.jpg"] == "Ben, junior"
    save_changes(out, {"person-00001": ""}, [])
    regroup(out)
    assert people_of(out)["anna-0.jpg"] == "person-00001"
    with pytest.raises(DatasetError, match=r"'\.\./x' is not one of the people"):
        save_changes(out, {"../x": "y"}, [])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_names_are_read_as_spreadsheets_write_them(make_grouped: Make, encoding: str, separator: str) -> None:
    out = make_grouped().folder
    regroup(out)
    lines = ["person,name,photos,faces", "person-00001,Zoë,4,4", "person-00002,,3,3"]
    text = "\r\n".join(lines).replace(",", separator)
    (out / "people.csv").write_bytes(text.encode(encoding))
    regroup(out)
    assert people_of(out)["anna-0.jpg"] == "Zoë"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("people.csv", b"person,name\nanna,Anna\n", "people.csv:2: 'anna' is not the id of a person"),
        ("people.csv", b"id,name\n1,Anna\n", "has no column 'person'"),
        ("people.csv", b"\x00\x01\x02\xff", "is not a text file"),
        ("corrections.csv", b"photo,face,person\na.jpg,first,Anna\n", "corrections.csv:2: 'first' is not the number"),
        ("corrections.csv", b'photo,face,person\n"a\x0d\n"x', "corrections.csv"),
    ],
)
def test_damaged_files_of_the_user_are_reported_and_kept(
    make_grouped: Make, name: str, data: bytes, message: str
) -> None:
    out = make_grouped().folder
    regroup(out)
    (out / name).write_bytes(data)
    with pytest.raises(DatasetError) as error:
        regroup(out)
    assert message in str(error.value) and (out / name).read_bytes() == data


def test_folders_of_people_do_not_lose_files_of_the_user(make_grouped: Make) -> None:
    out = make_grouped().folder
    regroup(out)
    (out / "people/person-00001/notes.txt").write_text("hers")
    name_people(out, person_00001="Anna")
    regroup(out)
    assert folders(out)["person-00001"] == ["notes.txt"] and len(folders(out)["Anna"]) == 4


def test_copies_instead_of_links(make_grouped: Make) -> None:
    out = make_grouped().folder
    regroup(out)
    grouped = GroupedPhotos.load(out)
    object.__setattr__(grouped, "copy", True)
    grouped.save()
    regroup(out)
    copy = out / "people/person-00001/anna-0.jpg"
    assert not copy.is_symlink() and copy.read_bytes() == (grouped.photos / "anna-0.jpg").read_bytes()


@pytest.mark.parametrize("names", [["Anna", "anna"], ["..", "."], ["a" * 300, "a" * 300 + "b"], ["con/x", "con:x"]])
def test_names_give_folders_inside_out_that_differ(make_grouped: Make, names: list[str]) -> None:
    out = make_grouped().folder
    regroup(out)
    name_people(out, person_00001=names[0], person_00002=names[1])
    regroup(out)
    found = folders(out)
    assert sorted(map(len, found.values())) == [3, 4] and len({name.casefold() for name in found}) == 2


def test_a_model_without_scores_groups_at_the_given_threshold(make_grouped: Make) -> None:
    out = make_grouped(scores=False).folder
    assert regroup(out).linked_above == 0.6
    table = pq.read_table(out / "people.parquet").to_pydict()
    assert table["confidence"] == [None] * 8 and "person-00001" in (out / "people.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda out: shutil.rmtree(out / ".sfplus"), UsageError),
        (lambda out: (out / ".sfplus/group/group.json").write_text("{}"), ArtefactError),
        (lambda out: (out / ".sfplus/group/group.json").write_text("[]"), ArtefactError),
        (lambda out: (out / "people.parquet").write_bytes(b"x"), ArtefactError),
        (lambda out: (out / ".sfplus/features/features.safetensors").write_bytes(b"x"), ArtefactError),
        (lambda out: (out / "mean.safetensors").write_bytes(b"x"), SfplusError),
    ],
)
def test_damaged_results_are_reported(make_grouped: Make, damage: Callable, error: type[Exception]) -> None:
    out = make_grouped().folder
    regroup(out)
    damage(out)
    with pytest.raises(error):
        regroup(out)


def test_damaged_neighbours_are_computed_again(make_grouped: Make) -> None:
    out = make_grouped().folder
    expected = regroup(out).table
    (out / ".sfplus/group/neighbours.safetensors").write_bytes(b"x")
    assert regroup(out).table == expected


@pytest.mark.slow
def test_a_run_that_was_killed_at_any_moment_ends_with_the_same_files(
    make_grouped: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare() -> Path:
        out = make_grouped().folder
        shutil.rmtree(out)
        out = make_grouped().folder
        regroup(out)
        save_changes(out, {"person-00001": "Anna"}, [("anna-0.jpg", 0, "Zoe"), ("ben-0.jpg", 0, "")])
        make_grouped([f"anna-{number}.jpg" for number in range(6)] + ["ben-0.jpg", "ben-1.jpg", "dora-0.jpg"])
        return out

    def contents(out: Path) -> dict[str, bytes]:
        files = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".lock"]
        return {str(path.relative_to(out)): path.read_bytes() for path in files}

    out = prepare()
    regroup(out)
    expected, moved = contents(out), Path.replace
    for stop in range(1, 100):
        out, calls = prepare(), 0

        def killed(path: Path, target: Path, stop: int = stop) -> Path:
            nonlocal calls
            calls += 1
            if calls == stop:
                raise KeyboardInterrupt
            return moved(path, target)

        monkeypatch.setattr(Path, "replace", killed)
        try:
            regroup(out)
            break
        except KeyboardInterrupt:
            pass
        finally:
            monkeypatch.setattr(Path, "replace", moved)
        with monkeypatch.context() as after:  # the process that left temporary files has ended
            after.setattr("sfplus.io.leftovers._is_alive", lambda *_: False)
            regroup(out)
        assert contents(out) == expected, f"killed at write {stop}"
    assert stop > 10
