"""A recipe in two processes of torchrun gives the same result as in one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sfplus.artifacts.stage import Stage
from sfplus.device import local_device
from sfplus.io.files import digest_json
from sfplus.pipeline.distributed import count_local_steps


def stage(name: str, shared: bool = False, trains: bool = False) -> Stage:
    return Stage(name, 1, lambda job: {}, (lambda job: None) if shared else None, trains)


def test_later_processes_run_the_stages_up_to_the_last_shared_or_trained_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [stage("sample"), stage("detect", True), stage("train", trains=True), stage("embed"), stage("verify")]
    assert count_local_steps(stages) == 5
    monkeypatch.setenv("RANK", "1")
    assert count_local_steps(stages) == 3 and count_local_steps(stages[:2]) == 2 and count_local_steps(stages[3:]) == 0
    assert local_device("cpu") == "cpu" and local_device("cuda:3") == "cuda:3"


def run_in_two_processes(recipe: Path, workspace: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = ["-m", "sfplus", "run", recipe, *overrides, "--workspace", workspace, "--device", "cpu"]
    return subprocess.run([*launcher, *map(str, words)], capture_output=True, text=True, check=False, timeout=300)


def histories(workspace: Path, recipe: Path) -> dict[str, list[dict[str, float]]]:
    """Return the training histories of a run by step."""
    rows = {}
    for step, identity in json.loads((workspace / "runs" / recipe.stem / "run.json").read_text()).items():
        folder = workspace / "cache" / identity["stage"] / digest_json(identity)[:20]
        assert (folder / "manifest.json").is_file()
        if (folder / "history.jsonl").is_file():
            rows[step] = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return rows


@pytest.mark.slow
def test_two_processes_train_like_one_and_only_the_first_reports(tiny: Path, tmp_path: Path) -> None:
    both, single = tmp_path / "both", tmp_path / "single"
    answer = run_in_two_processes(tiny, both)
    assert answer.returncode == 0, answer.stderr
    assert (
        answer.stdout.count("SphereFace+ (m = 2, MHE s = 1, weight 1): ") == 1
        and (both / "runs/tiny/report.html").is_file()
    )
    assert answer.stderr.count("done") == 12 and "another run" not in answer.stderr  # only the first process prints
    assert not list((both / "cache").glob("*/*.partial")) and not list((both / "cache").glob("*/*.parts"))
    command = [sys.executable, "-m", "sfplus", "run", tiny, "--workspace", single, "--device", "cpu"]
    subprocess.run([*command, "--until", "finetune"], check=True, capture_output=True)
    rows_of_two, rows_of_one = histories(both, tiny), histories(single, tiny)
    assert set(rows_of_two) == set(rows_of_one) == {"train", "finetune"}
    for step, rows in rows_of_one.items():
        for row, row_of_two in zip(rows, rows_of_two[step], strict=True):
            assert row_of_two["loss"] == pytest.approx(row["loss"], rel=1e-4)
            assert row_of_two["accuracy"] == pytest.approx(row["accuracy"], abs=1e-6)

    changed = run_in_two_processes(tiny, both, "finetune.energy.weight=0")
    assert changed.returncode == 0 and changed.stderr.count("fresh") == 8 and changed.stderr.count("done") == 4
    wrong = run_in_two_processes(tiny, both, "finetune.batch_size=7")
    assert wrong.returncode == 1 and "cannot be divided among 2 processes" in wrong.stderr
