"""`sfplus sweep`: the runs, the shared and cached stages, the comparison with the control."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfplus.cli import sweep

VARIANTS = [
    "--variant", "control:finetune.energy.weight=0", "--variant", "mhe:", "--variant", "wild:finetune.base_lr=1e30",
]  # fmt: skip


def artefacts(workspace: Path, stage: str) -> int:
    return len(list((workspace / "cache" / stage).glob("*/manifest.json")))


@pytest.mark.slow
@pytest.mark.plots
def test_a_sweep_shares_stages_continues_after_a_failed_run_and_repeats_nothing(
    tiny: Path, tmp_path: Path, sfplus: Callable
) -> None:
    words = [
        "sweep",
        tiny,
        *VARIANTS,
        "--seeds",
        2,
        "--seed-of",
        "finetune",
        "--workspace",
        tmp_path,
        "--device",
        "cpu",
    ]
    answer = sfplus(*words)
    assert answer.code == 1 and "Traceback" not in answer.err
    lines = [line for line in answer.err.splitlines() if line.removeprefix("warning: ").startswith("[")]
    assert len(lines) == 6 and "[1/6] control, seed 0: accuracy " in lines[0]
    assert "[3/6] wild, seed 0: " in lines[2] and "use a smaller base_lr" in lines[2]
    assert (artefacts(tmp_path, "train"), artefacts(tmp_path, "finetune"), artefacts(tmp_path, "verify")) == (1, 4, 5)

    folder = tmp_path / "runs/tiny-sweep"
    data = json.loads((folder / "sweep.json").read_bytes())
    rows = {row["label"]: row for row in data["rows"]}
    assert list(rows) == ["before fine-tuning", "control", "mhe"] and data["cells"] == 6
    assert rows["before fine-tuning"]["seeds"] == [0] and rows["mhe"]["seeds"] == [0, 1]
    assert {(row["label"], row["seed"]) for row in data["failures"]} == {("wild", 0), ("wild", 1)}
    values, control = (rows[name]["metrics"]["accuracy"]["values"] for name in ("mhe", "control"))
    difference = rows["mhe"]["against"]
    assert difference["control"] == "control"
    assert difference["values"] == [a - b for a, b in zip(values, control, strict=True)]
    assert len(difference["p"]) == 2 and rows["control"]["against"] is None
    for row in rows.values():  # 4 nearly orthogonal directions: energy near 1/2, angles near 90 degrees
        assert 0.3 < row["metrics"]["class_energy"]["mean"] < 0.7 and 50 < row["metrics"]["min_angle"]["mean"] < 120
    assert rows["mhe"]["metrics"]["class_energy"]["mean"] < rows["control"]["metrics"]["class_energy"]["mean"]
    doses = {name: row["metrics"].get("training_energy_degrees") for name, row in rows.items()}
    assert doses["mhe"]["mean"] > 0 == doses["control"]["mean"] and doses["before fine-tuning"] is None
    assert all(
        row["devices"][0].startswith("cpu, ") and len(row["seconds"]) == len(row["seeds"]) for row in rows.values()
    )
    assert set(rows["mhe"]["models"]) <= {path.name for path in (tmp_path / "cache" / "finetune").iterdir()}
    assert all(row["metrics"]["class_energy"]["spread"] is None for row in [rows["before fine-tuning"]])
    plus, tuned = "SphereFace+ (m = 2, MHE s = 1, weight 1)", "SphereFace, fine-tuned without MHE (control)"
    models = {"before fine-tuning": "SphereFace (A-Softmax, m = 2)", "control": tuned, "mhe": plus}
    assert {name: row["model"] for name, row in rows.items()} == models
    assert f"| mhe | {plus} | 2 |" in (folder / "sweep.md").read_text()
    assert "failed: wild, seed 0: " in answer.out and answer.out.endswith("sweep.html\n")
    page = (folder / "sweep.html").read_text()
    assert plus in page and "use a smaller base_lr" in page and "data:image/png" in page

    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert set(before) == {"sweep.json", "sweep.md", "sweep.html", "sweep.png", "curves.png"}
    again = sfplus(*words, "--out", tmp_path / "out")
    assert again.err.count("(fresh)") == 4 and again.code == 1
    for name in ("sweep.png", "curves.png"):
        assert (tmp_path / "out" / name).read_bytes() == before[name]
    assert json.loads((tmp_path / "out/sweep.json").read_bytes())["rows"] == data["rows"]

    single = sfplus("run", tiny, "--until", "finetune", "--workspace", tmp_path, "--device", "cpu")
    assert single.err.count("fresh") == 5  # the first seed is that of the recipe


@pytest.mark.slow
def test_a_sweep_until_training_compares_training_metrics(tiny: Path, tmp_path: Path, sfplus: Callable) -> None:
    answer = sfplus("sweep", tiny, "train.base_lr=0.02,0.04", "train.max_iter=2", "--until", "train", "--workspace",
                    tmp_path, "--name", "rates", "--device", "cpu")  # fmt: skip
    assert answer.code == 0, answer.err
    data = json.loads((tmp_path / "runs/rates/sweep.json").read_bytes())
    assert [row["label"] for row in data["rows"]] == ["base_lr=0.02", "base_lr=0.04"]
    assert data["metric"] == "training_accuracy"
    first = data["rows"][0]["metrics"]
    assert first["training_loss"]["values"][0] == pytest.approx(math.log(4), abs=0.3)
    assert data["rows"][1]["against"]["control"] == "base_lr=0.02" and not (tmp_path / "cache/verify").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.head.m"], "train.head.m: is not of the form key=a,b,c"),
        (["train.hed.m=1,2"], "unknown key 'train.hed'"),
        (["--seed-of", "verify"], "no stage 'verify' draws random numbers"),
        (["--until", "fly"], "this recipe has no stage 'fly'"),
        (["--name", "../x"], "is not a valid name of a folder"),
        (["--seeds", "0"], "--seeds"),
        (["--variant", "x"], "is not of the form name:key=value"),
    ],
)
def test_invalid_arguments_start_nothing(
    words: list[str], message: str, tiny: Path, tmp_path: Path, sfplus: Callable
) -> None:
    answer = sfplus("sweep", tiny, *words, "--workspace", tmp_path / "data")
    assert answer.code == 2 and message in answer.err and not (tmp_path / "data").exists(), answer


def test_seeds_are_refused_for_a_recipe_without_training(tmp_path: Path, sfplus: Callable) -> None:
    answer = sfplus("sweep", "lfw", "--seeds", "2", "--workspace", tmp_path)
    assert answer.code == 2 and "nothing in this recipe draws random numbers" in answer.err


@pytest.mark.slow
def test_features_of_faces_are_not_plotted_in_the_plane(tiny: Path, tmp_path: Path, sfplus: Callable) -> None:
    """The embed stage writes its features to a file of the same name as the stage classify."""
    words = ["train.max_iter=2", "finetune.max_iter=2", "--until", "embed", "--workspace", tmp_path, "--device", "cpu"]
    answer = sfplus("sweep", tiny, *words)
    assert answer.code == 0, answer.err
    assert (tmp_path / "runs/tiny-sweep/sweep.md").is_file() and not (tmp_path / "runs/tiny-sweep/plane.png").exists()


def test_results_cannot_be_written_to_a_file(tiny: Path, tmp_path: Path, sfplus: Callable) -> None:
    (tmp_path / "file").touch()
    answer = sfplus("sweep", tiny, "--out", tmp_path / "file", "--workspace", tmp_path / "data")
    assert answer.code == 2 and "file: is not a folder" in answer.err and not (tmp_path / "data").exists()


def test_a_sweep_in_several_processes_is_refused(tiny: Path, sfplus: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    answer = sfplus("sweep", tiny)
    assert answer.code == 2 and "a sweep runs in one process" in answer.err


def test_results_are_written_after_each_run_that_takes_longer_than_that(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, clock, written = iter([1, 5, 20, 5]), [0.0], []

    def run(cell: object, recipe: str, context: object, console: Any, table: object) -> None:
        console.worked, clock[0] = True, clock[0] + next(runs)

    def write(table: object, folder: Path) -> None:
        written.append(clock[0])
        clock[0] += 10

    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr(sweep, "_run_cell", run)
    monkeypatch.setattr(sweep, "_write", write)
    sweep.run_sweep(str(tiny), [], [], 4, "train", "", "cpu", tmp_path / "data")
    assert written == [1, 36, 51]
