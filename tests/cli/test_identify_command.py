"""`sfplus identify`: photos and features, distractors, and the files that it writes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from untrained_models import save_untrained

from sfplus.datasets.portraits import write_portraits
from sfplus.images import list_photos

Sfplus = Callable[..., SimpleNamespace]


def write_features(path: Path, names: list[str], degrees: list[float]) -> Path:
    angles = np.radians(degrees)
    features = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    np.savez(path, names=np.array(names), features=features)
    return path


def test_features_give_a_table_a_report_and_a_line_per_photo(tmp_path: Path, sfplus: Sfplus) -> None:
    names = ["a/1", "a/2", "b/1", "b/2", "c/1"]
    people = write_features(tmp_path / "people.npz", names, [0, 10, 90, 30, 200])
    crowd = write_features(tmp_path / "crowd.npz", ["x", "y"], [8, 300])
    answer = sfplus("identify", people, "--distractors", crowd, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert lines[0] == "2 photos of 2 people searched; 1 photo of strangers"
    assert " ".join(lines[1].split()) == "distractors rank 1 rank 5 rank 10 TPIR 1 % TPIR 10 % MegaFace"
    assert lines[2].split() == ["0", "50.00", "100.00", "100.00", "–", "–", "–"]
    assert lines[3].split() == ["2", "0.00", "100.00", "100.00", "–", "–", "25.00"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["identification"]["people"]["rows"][1]["rank"] == {"1": 0.0, "5": 1.0, "10": 1.0}
    table = (tmp_path / "out" / "report.md").read_text().splitlines()
    assert "|2|0.00%|100.00%|100.00%|–|–|–|25.00%|" in [line.replace(" ", "") for line in table]
    assert "### people" in table
    page = (tmp_path / "out" / "report.html").read_text()
    assert '<section id="identification">' in page and "2 photos of 2 people are searched" in page
    assert "<h3>people</h3>" in page
    with (tmp_path / "out" / "probes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["photo"], row["person"], row["rank"]) for row in rows] == [
        ("a/2", "a", "2"), ("b/2", "b", "3"), ("c/1", "c", ""),
    ]  # fmt: skip
    assert float(rows[0]["mate_score"]) == pytest.approx(np.cos(np.radians(10)), abs=1e-5)


@pytest.mark.slow
def test_photos_are_detected_and_embedded_once(drawn: Path, tmp_path: Path, sfplus: Sfplus) -> None:
    save_untrained(tmp_path / "model")
    others = tmp_path / "others"
    write_portraits(others, 3, 1, seed=7)
    (others / "known.jpg").write_bytes((drawn / list_photos(drawn)[0]).read_bytes())
    (others / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    words = ("identify", drawn, "--distractors", others, "--model", tmp_path / "model", "--device", "cpu")
    first = sfplus(*words, "--workspace", tmp_path / "data")
    assert first.code == 0 and "1 failed: left out" in first.err, first.err
    assert f"1 distractor left out, with the features of photos in {drawn}" in first.err
    report = tmp_path / "data" / "runs" / f"identify-{drawn.name}" / "report.json"
    rates = json.loads(report.read_text())["identification"]["model"]
    assert rates["left_out"] == 1
    assert [row["distractors"] for row in rates["rows"]] == [0, 3]
    assert rates["rows"][1]["rank"]["1"] <= rates["rows"][0]["rank"]["1"]
    again = sfplus(*words, "--workspace", tmp_path / "data")
    assert again.code == 0 and "fresh" in again.out + again.err
    assert json.loads(report.read_text())["identification"] == {"model": rates}


def test_a_report_of_several_runs_has_a_table_for_each(tmp_path: Path, sfplus: Sfplus) -> None:
    for name, degrees in (("first", 10), ("second", 60)):
        features = write_features(tmp_path / f"{name}.npz", ["a/1", "a/2", "b/1", "b/2"], [0, degrees, 90, 100])
        assert sfplus("identify", features, "--out", tmp_path / name).code == 0
    answer = sfplus("report", tmp_path / "first", tmp_path / "second", "--out", tmp_path / "both")
    assert answer.code == 0, answer.err
    rates = json.loads((tmp_path / "both" / "report.json").read_text())["identification"]
    assert {name: data["rows"][0]["rank"]["1"] for name, data in rates.items()} == {"first": 1.0, "second": 0.5}
    lines = (tmp_path / "both" / "report.md").read_text().splitlines()
    headings = [row for row, line in enumerate(lines) if line.startswith("#")]
    assert [lines[row] for row in headings[1:4]] == ["## Identification", "### first", "### second"]
    assert not any(lines[row - 1] for row in headings[1:]), "a heading follows an empty line"


def test_photos_without_a_face_are_named_if_too_few_are_left(drawn: Path, tmp_path: Path, sfplus: Sfplus) -> None:
    save_untrained(tmp_path / "model")
    photos = tmp_path / "photos"
    for person, photo in zip(("a", "b"), list_photos(drawn)[:2], strict=True):
        (photos / person).mkdir(parents=True)
        (photos / person / "1.jpg").write_bytes((drawn / photo).read_bytes())
        (photos / person / "2.jpg").write_bytes(b"\xff\xd8\xff nothing")
    answer = sfplus("identify", photos, "--model", tmp_path / "model", "--device", "cpu", "--out", tmp_path / "out")
    expected = f"{photos}: no person has more than 1 photo with a usable face (2 left out)"
    assert answer.code == 1 and expected in answer.err, answer.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "nothing: does not exist"),
        (["notes.txt"], "is neither a folder of photos nor a file of features"),
        (["loose.npz"], "is not in a person's folder"),
        (["single.npz"], "no person has more than 1 photo"),
        (["people.npz", "--model", "my/model"], "does not go with features"),
        (["people.npz", "--network", "my:net"], "--network: does not go with features"),
        (["people.npz", "--input", "insightface"], "--input: does not go with features"),
        (
            ["zero.npz"],
            "features of 1 photo are zero or hold NaN or infinity: a/2; compute them again, or leave them out",
        ),
        (
            ["people.npz", "--distractors", "people.npz"],
            "holds no photo that is not in people.npz or in earlier distractors",
        ),
        (["people.npz", "--distractors", "wide.npz"], "its features have 3 numbers"),
        (["people.npz", "--distractors", "missing.npz"], "missing.npz: does not exist"),
        (["people.npz", "--enrol", "2"], "no person has more than 2 photos"),
        (["people.npz", "--enrol", "0"], "enrol"),
    ],
)
def test_what_cannot_be_identified_is_one_line(
    words: list[str], message: str, tmp_path: Path, sfplus: Sfplus, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_features(tmp_path / "people.npz", ["a/1", "a/2"], [0, 1])
    write_features(tmp_path / "loose.npz", ["1", "2"], [0, 1])
    write_features(tmp_path / "single.npz", ["a/1", "b/2"], [0, 1])
    np.savez(tmp_path / "zero.npz", names=np.array(["a/1", "a/2"]), features=np.array([[1, 0], [0, 0]], np.float32))
    np.savez(tmp_path / "wide.npz", names=np.array(["x"]), features=np.ones((1, 3), np.float32))
    (tmp_path / "notes.txt").write_text("notes")
    monkeypatch.chdir(tmp_path)
    answer = sfplus("identify", *words)
    assert answer.code in (1, 2) and message in answer.err and "Traceback" not in answer.err
    assert not (tmp_path / "data").exists()


def test_distractors_with_the_features_of_earlier_photos_are_left_out(tmp_path: Path, sfplus: Sfplus) -> None:
    people = write_features(tmp_path / "people.npz", ["a/1", "a/2", "b/1", "b/2"], [0, 10, 90, 80])
    first = write_features(tmp_path / "first.npz", ["x", "y"], [200, 10])
    second = write_features(tmp_path / "second.npz", ["z", "x"], [300, 200])
    words = ["--distractors", first, "--distractors", second]
    answer = sfplus("identify", people, *words, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    for file in (first, second):
        assert f"{file}: 1 distractor left out, with the features of photos in {people}" in answer.err
    assert answer.out.splitlines()[3].split()[:2] == ["2", "100.00"]
