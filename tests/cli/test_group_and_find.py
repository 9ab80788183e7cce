"""Folders of photos are grouped and searched from the command line: first run, second run, new photos, wrong input."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

THRESHOLD = ("--threshold", "0.95")  # drawn faces are similar


@pytest.fixture
def photos(drawn: Path, tmp_path: Path) -> Path:
    """Six drawn photos, one without a face and one that is damaged."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, photo in enumerate(sorted(drawn.glob("*/*.jpg"))[:6]):
        shutil.copy(photo, folder / f"{number}.jpg")
    (folder / "damaged.jpg").write_bytes(b"no photo")
    return folder


def test_a_folder_is_grouped_named_and_grouped_again(sfplus: Callable, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = sfplus("group", photos, out, *THRESHOLD)
    assert answer.code == 1, answer.err  # the damaged photo
    assert "6 faces: " in answer.out and "1 failed" in answer.out and "people.html" in answer.out
    assert "damaged.jpg" in answer.err and "damaged.jpg" in (out / "failures.jsonl").read_text()
    (photos / "damaged.jpg").unlink()
    people = (out / "people.csv").read_text("utf-8").replace("person-00001,,", "person-00001,Anna,")
    (out / "people.csv").write_text(people, "utf-8")
    answer = sfplus("group", photos, out, *THRESHOLD)
    assert answer.code == 0 and "0 failed" in answer.out
    assert "person-00001,Anna," in (out / "people.csv").read_text("utf-8") and "Anna" in (
        out / "people.html"
    ).read_text("utf-8")
    assert (out / "people" / "Anna").is_dir()


@pytest.mark.slow
def test_a_person_is_found_in_a_folder_and_in_grouped_photos(sfplus: Callable, photos: Path, tmp_path: Path) -> None:
    (photos / "damaged.jpg").unlink()
    out, found = tmp_path / "out", tmp_path / "found"
    first = sfplus("find", photos / "2.jpg", photos, "--out", found)
    assert first.code == 0, first.err
    assert first.out.split()[3] == "2.jpg" and "found.html" in first.out
    with (found / "found.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["photo"] == "2.jpg" and len(rows) == 6
    assert "2.jpg" in (found / "found.html").read_text("utf-8")
    assert sfplus("group", photos, out, *THRESHOLD).code == 0
    second = sfplus("find", photos / "2.jpg", out, "--out", tmp_path / "again")
    assert second.out.splitlines()[:-1] == first.out.splitlines()[-7:-1] and "detect" not in second.err
    assert (tmp_path / "again" / "found.csv").read_bytes() == (found / "found.csv").read_bytes()


def test_wrong_input_is_one_line(sfplus: Callable, photos: Path, untrained_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cases = [
        (("group", tmp_path / "none", out), 2, "does not exist"),
        (("group", photos, photos / "out"), 2, "OUT and IN overlap"),
        (("group", photos, out, "--threshold", "2"), 2, "--threshold"),
        (("find", tmp_path / "none.jpg", photos, "--out", out), 2, "none.jpg"),
        (("find", photos / "1.jpg", photos, "--out", photos), 2, "OUT and IN overlap"),
        (("find", photos / "1.jpg", photos, "--out", Path(__file__).parent), 2, "contains other files"),
        (("find", photos / "damaged.jpg", photos, "--out", out), 1, "damaged.jpg"),
        (("find", photos / "1.jpg", tmp_path / "none", "--out", out), 2, "does not exist"),
    ]
    for arguments, code, message in cases:
        answer = sfplus(*arguments)
        assert answer.code == code and message in answer.err and "Traceback" not in answer.err, (arguments, answer)


def test_a_model_without_scores_estimates_the_threshold(
    sfplus: Callable, photos: Path, untrained_model: Path, tmp_path: Path
) -> None:
    (photos / "damaged.jpg").unlink()
    answer = sfplus("group", photos, tmp_path / "out", "--model", untrained_model)
    assert answer.code == 0 and "estimated from the photos" in answer.out and "sfplus calibrate" in answer.err


def test_another_model_than_that_of_the_groups_is_refused(
    sfplus: Callable, photos: Path, untrained_model: Path, tmp_path: Path
) -> None:
    sfplus("group", photos, tmp_path / "out", *THRESHOLD)
    answer = sfplus("find", photos / "1.jpg", tmp_path / "out", "--model", untrained_model, "--out", tmp_path / "found")
    assert answer.code == 2 and "grouped with another model" in answer.err


@pytest.mark.slow
def test_real_people_are_grouped_and_found(sfplus: Callable, shared_data: Path, tmp_path: Path) -> None:
    """People of the training photos: the model knows them, so that this tests the chain and not the model."""
    names = sorted(folder.name for folder in (shared_data / "train_photos").glob("vgg_*"))[:6]
    for name in names:
        for photo in sorted((shared_data / "train_photos" / name).iterdir())[:12]:
            target = tmp_path / "photos" / f"{name}-{photo.name}"
            target.parent.mkdir(exist_ok=True)
            shutil.copy(photo, target)
    answer = sfplus("group", tmp_path / "photos", tmp_path / "out")
    assert answer.code == 0, answer.err
    table = pq.read_table(tmp_path / "out" / "people.parquet").to_pydict()
    people = np.array([photo.split("-")[0] for photo in table["photo"]])
    groups = np.array(table["person"])
    same, together = people[:, None] == people, groups[:, None] == groups
    pairs = np.triu(np.ones_like(same), 1).astype(bool)
    assert (same & together)[pairs].sum() > 0.9 * together[pairs].sum()
    assert (same & together)[pairs].sum() > 0.5 * same[pairs].sum()
    found = sfplus("find", tmp_path / "photos" / table["photo"][0], tmp_path / "out", "--out", tmp_path / "found")
    best = [line.split()[-1] for line in found.out.splitlines()[:4]]
    assert [photo.split("-")[0] for photo in best] == [people[0]] * 4, found.out
