"""A recipe in two processes, as torchrun starts them, against the same recipe in one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sfplus.artifacts.stage import Stage
from sfplus.io.files import digest_json
from sfplus.pipeline.distributed import count_local_steps, local_device


def stage(name: str, shared: bool = False, trains: bool = False) -> Stage:
    return Stage(name, 1, lambda job: {}, (lambda job: None) if shared else None, trains)


def test_what_each_process_takes_part_in(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [stage("sample"), stage("detect", True), stage("train", trains=True), stage("embed"), stage("verify")]
    assert count_local_steps(stages) == 5
    monkeypatch.setenv("RANK", "1")
    assert count_local_steps(stages) == 3 and count_local_steps(stages[:2]) == 2 and count_local_steps(stages[3:]) == 0
    assert local_device("cpu") == "cpu" and local_device("cuda:3") == "cuda:3"


def two(recipe: Path, workspace: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = ["-m", "sfplus", "run", recipe, *overrides, "--workspace", workspace, "--device", "cpu"]
    return subprocess.run([*launcher, *map(str, words)], capture_output=True, text=True, check=False, timeout=300)


def histories(workspace: Path, recipe: Path) -> dict[str, list[dict[str, float]]]:
    """The training histories of a run, whose manifests say what their own files hold."""
    found = {}
    for step, identity in json.loads((workspace / "runs" / recipe.stem / "run.json").read_text()).items():
        folder = workspace / "cache" / identity["stage"] / digest_json(identity)[:20]
        assert (folder / "manifest.json").is_file()
        if (folder / "history.jsonl").is_file():
            found[step] = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return found


@pytest.mark.slow
def test_two_processes_run_a_recipe(tiny: Path, tmp_path: Path) -> None:
    both, alone = tmp_path / "both", tmp_path / "alone"
    answer = two(tiny, both)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("verify/finetune: ") == 1 and (both / "runs/tiny/report.html").is_file()
    assert answer.stderr.count("done") == 12 and "another run" not in answer.stderr  # the first alone talks
    assert not list((both / "cache").glob("*/*.partial")) and not list((both / "cache").glob("*/*.parts"))
    one = [sys.executable, "-m", "sfplus", "run", tiny, "--workspace", alone, "--device", "cpu", "--until", "finetune"]
    subprocess.run(one, check=True, capture_output=True)
    two_rows, one_rows = histories(both, tiny), histories(alone, tiny)
    assert set(two_rows) == set(one_rows) == {"train", "finetune"}
    for step, rows in one_rows.items():
        for row, other in zip(rows, two_rows[step], strict=True):
            assert other["loss"] == pytest.approx(row["loss"], rel=1e-4)
            assert other["accuracy"] == pytest.approx(row["accuracy"], abs=1e-6)

    changed = two(tiny, both, "finetune.energy.weight=0")
    assert changed.returncode == 0 and changed.stderr.count("fresh") == 8 and changed.stderr.count("done") == 4
    wrong = two(tiny, both, "finetune.batch_size=7")
    assert wrong.returncode == 1 and "cannot be divided among 2 processes" in wrong.stderr
