"""`sfplus overlap` matches people of two sets by name and by face."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from sfplus.cli.overlap import overlap
from sfplus.datasets.identities import read_person_list
from sfplus.datasets.portraits import write_portraits
from sfplus.datasets.records import Record
from sfplus.errors import DatasetError, PhotoError
from sfplus.io.resources import DEFAULT_MODEL


def write_features(path: Path, people: dict[str, np.ndarray]) -> None:
    names = [f"{person}/{i}" for person, rows in people.items() for i in range(len(rows))]
    np.savez(path, names=np.array(names), features=np.concatenate(list(people.values())).astype(np.float32))


def test_people_of_feature_files_are_matched_by_name_and_face(
    tmp_path: Path, sfplus: Callable[..., SimpleNamespace]
) -> None:
    rng = np.random.default_rng(0)
    identities = rng.standard_normal((90, 24))
    photos = identities[:, None] + 0.2 * rng.standard_normal((90, 3, 24))
    train = {f"id {i:02d}": photos[i] for i in range(40)} | {"Ada_Byron": photos[40], "Zoë_Ball": photos[41]}
    test = {f"Face {i}": photos[i] for i in range(45, 90)} | {"Ada Byron": photos[40], "zoe_ball_7": photos[44]}
    write_features(tmp_path / "train.npz", train)
    write_features(tmp_path / "test.npz", test | {"Known_As": identities[None, 7]})
    out = tmp_path / "out.txt"
    answer = sfplus("overlap", tmp_path / "train.npz", tmp_path / "test.npz", "--out", out, "--false-alarms", 0)
    assert answer.code == 0
    assert answer.out.startswith(f"42 people of {tmp_path}/train.npz against 48 of {tmp_path}/test.npz\n")
    assert "people match from cosine 0." in answer.out and "of 1989 pairs of different people" in answer.out
    people = read_person_list(out)
    assert {"Ada_Byron", "Zoë_Ball", "id 07"} <= set(people)
    assert len(people) < 3 + 3 * 5  # five false alarms are expected among so few people
    assert answer.out.endswith(f"{len(people)} people to leave out: {out}\n")
    text = out.read_text()
    assert "# zoe_ball_7: name\nZoë_Ball\n" in text
    assert "# Ada Byron: face and name, cosine 1.000" in text and "# Known_As: face, cosine 0.9" in text
    answer = sfplus("overlap", tmp_path / "train.npz", tmp_path / "test.npz", "--sheet", tmp_path / "sheet.png")
    assert answer.code == 2 and "features have no faces to draw" in answer.err


def test_numeric_names_do_not_match(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two data sets have the same labels but different people."""
    rows = np.eye(40)[:, None]
    for name, start in (("train", 0), ("test", 20)):
        write_features(tmp_path / f"{name}.npz", {f"{i:07d}": rows[start + i] for i in range(20)})
    matches = overlap(tmp_path / "train.npz", tmp_path / "test.npz", "", None, None)
    assert not [match for match in matches if "name" in match.reason]
    assert "40 of them have a number instead of a name" in capsys.readouterr().out


def test_large_images_are_not_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the prefetched images that are not crops are in memory."""
    alive: weakref.WeakSet[np.ndarray] = weakref.WeakSet()
    peak = 0

    def decode(record: Record, _: object) -> np.ndarray:
        nonlocal peak
        image = np.zeros((300, 300, 3), np.uint8).view(Tracked)
        alive.add(image)
        peak = max(peak, len(alive))
        return image

    for person in ("Ada", "Ben"):
        (tmp_path / person).mkdir()
        for number in range(50):
            (tmp_path / person / f"{number}.png").touch()
    monkeypatch.setattr(Record, "decode", decode)
    with pytest.raises(PhotoError, match="is 300x300, not a crop of"):
        overlap(tmp_path, tmp_path, DEFAULT_MODEL, None, None, crops=True, images_per_person=99)
    assert peak <= 12


class Tracked(np.ndarray):
    __hash__ = object.__hash__
    __eq__ = object.__eq__


def test_people_of_photos_are_matched_and_drawn(tmp_path: Path, sfplus: Callable[..., SimpleNamespace]) -> None:
    """The sets share photos under different names; a photo without a face is reported and skipped."""
    write_portraits(tmp_path / "train", 6, 1, 0)
    folders = sorted(path for path in (tmp_path / "train").iterdir() if path.is_dir())
    (tmp_path / "test" / "Somebody").mkdir(parents=True)
    (tmp_path / "test" / folders[0].name).mkdir()
    for path, person in ((folders[3], "Somebody"), (folders[0], folders[0].name)):
        for photo in path.iterdir():
            (tmp_path / "test" / person / photo.name).write_bytes(photo.read_bytes())
    Image.new("RGB", (60, 60)).save(tmp_path / "test" / folders[0].name / "black.png")
    sheet, out = tmp_path / "sheet.png", tmp_path / "out.txt"
    answer = sfplus("overlap", tmp_path / "train", tmp_path / "test", "--out", out, "--sheet", sheet)
    assert answer.code == 0
    assert f"the first: {folders[0].name}/black.png: no face found; choose" in answer.err
    assert {folders[0].name, folders[3].name} <= set(read_person_list(out))
    assert f"# {folders[0].name}: face and name, cosine 1.000" in out.read_text()
    assert Image.open(sheet).size[0] > 800


@pytest.mark.slow
def test_real_people_are_matched_under_different_names(tmp_path: Path, shared_data: Path) -> None:
    """Three photos of 20 people of LFW are in the training set under another name, and three others in the test set.

    The bounds are below what the small shipped model does.
    """
    train, test = tmp_path / "train", tmp_path / "test"
    train.mkdir()
    test.mkdir()
    everyone = sorted((shared_data / "lfw/photos").iterdir())
    hidden = [folder for folder in everyone if len(list(folder.iterdir())) >= 6][:20]
    for number, person in enumerate(hidden):
        photos = sorted(person.iterdir())
        for folder, chosen in ((train / f"hidden {number}", photos[:3]), (test / person.name, photos[3:6])):
            folder.mkdir()
            for photo in chosen:
                (folder / photo.name).symlink_to(photo)
    for person in sorted((shared_data / "train_photos").iterdir())[::12][:40]:
        (train / person.name).symlink_to(person)
    for person in [person for person in everyone[::70] if person not in hidden][:40]:
        (test / person.name).symlink_to(person)
    matches = overlap(train, test, DEFAULT_MODEL, None, None, images_per_person=3)
    truth = {(f"hidden {number}", person.name) for number, person in enumerate(hidden)}
    right = {(match.train, match.test) for match in matches} & truth
    assert len(right) >= 12
    assert len(matches) - len(right) <= 15


def test_false_alarms_must_be_finite(tmp_path: Path, sfplus: Callable[..., SimpleNamespace]) -> None:
    answer = sfplus("overlap", tmp_path, tmp_path, "--false-alarms", "inf")
    assert answer.code == 2 and "--false-alarms inf: is not a finite number" in answer.err


@pytest.mark.parametrize("option", ["--out", "--sheet"])
def test_output_paths_are_checked_first(
    tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch, sfplus: Callable[..., SimpleNamespace]
) -> None:
    """A folder, and a path below a file, are refused before an image is decoded."""
    write_portraits(tmp_path / "drawn", 2, 1, 0)
    (tmp_path / "file").touch()
    monkeypatch.setattr(Record, "decode", lambda record: pytest.fail("an image was decoded"))
    for out, message in ((tmp_path, "is a folder"), (".", "is a folder"), (tmp_path / "file" / "a", "is not a folder")):
        answer = sfplus("overlap", tmp_path / "drawn", tmp_path / "drawn", option, out)
        assert answer.code == 2 and message in answer.err


def test_missing_folders_are_created(tmp_path: Path) -> None:
    write_features(tmp_path / "a.npz", {f"id {i}": np.eye(9)[None, i] for i in range(9)})
    overlap(tmp_path / "a.npz", tmp_path / "a.npz", "", tmp_path / "new" / "er" / "out.txt", None)
    assert (tmp_path / "new" / "er" / "out.txt").is_file()


@pytest.mark.parametrize("first", ["features", "photos"])
def test_features_of_different_lengths_are_refused(tmp_path: Path, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files, and a file and photos, are refused before an image is decoded."""
    rows = np.eye(9)[:, None]
    write_features(tmp_path / "a.npz", {f"id {i}": rows[i] for i in range(9)})
    write_features(tmp_path / "b.npz", {f"id {i}": rows[i, :, :7] + 1 for i in range(9)})
    with pytest.raises(DatasetError, match=r"a\.npz: its features have 9 numbers, those of .*b\.npz 7; make both with"):
        overlap(tmp_path / "a.npz", tmp_path / "b.npz", "", None, None)
    write_portraits(tmp_path / "drawn", 2, 1, 0)
    monkeypatch.setattr(Record, "decode", lambda record: pytest.fail("an image was decoded"))
    sets = [tmp_path / "a.npz", tmp_path / "drawn"]
    with pytest.raises(
        DatasetError, match=r"drawn: its features have \d+ numbers, those of .*a\.npz 9; make both with"
    ):
        overlap(*(sets if first == "features" else sets[::-1]), DEFAULT_MODEL, None, None)


def test_images_of_another_size_are_named(tmp_path: Path) -> None:
    (tmp_path / "Ada").mkdir()
    Image.new("RGB", (60, 60)).save(tmp_path / "Ada" / "small.png")
    with pytest.raises(PhotoError, match=r"^Ada/small\.png: is 60x60, not a crop of .*; .*sfplus align"):
        overlap(tmp_path, tmp_path, DEFAULT_MODEL, None, None, crops=True)


def test_names_with_a_hash_are_written_and_read(tmp_path: Path) -> None:
    """The list of `--out` is read by `--exclude`."""
    write_features(tmp_path / "a.npz", {name: np.eye(9)[None, i] for i, name in enumerate(["#1 Fan", "#", "Ada"])})
    overlap(tmp_path / "a.npz", tmp_path / "a.npz", "", tmp_path / "out.txt", None)
    assert set(read_person_list(tmp_path / "out.txt")) == {"#1 Fan", "Ada"}


def test_names_that_a_list_cannot_hold_are_named(tmp_path: Path, sfplus: Callable[..., SimpleNamespace]) -> None:
    """A name that is no UTF-8 or contains a line break changes no line of the list and no line of the terminal."""
    rows = np.random.default_rng(0).standard_normal((4, 2, 8))
    names = ["p\udcff", "Ada\nBen", "esc\x1b[31m", "Zoë"]
    for name in ("train", "test"):
        write_features(tmp_path / f"{name}.npz", dict(zip(names, rows, strict=True)))
    out = tmp_path / "out.txt"
    answer = sfplus("overlap", tmp_path / "train.npz", tmp_path / "test.npz", "--out", out, "--false-alarms", 9)
    assert answer.code == 0 and "\x1b" not in answer.out + answer.err
    assert "names that cannot be written to a list: " in answer.err and r"Ada\nBen" in answer.err
    assert read_person_list(out) == ("Zoë",)
    lines = out.read_text().splitlines()
    assert all(line.startswith("# ") or line == "Zoë" for line in lines)
    assert r"# cannot be listed, rename the folder: p\udcff" in lines
