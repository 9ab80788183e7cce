"""`sfplus board`: the curves of a recipe, and what is said where there are none or no TensorBoard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from sfplus.artifacts.artefact import Artefact
from sfplus.cli.board import curve_folders
from sfplus.pipeline.status import StepStatus
from sfplus.training.history import EVENTS, History


def _train(folder: Path) -> Path:
    """Write the history of a training."""
    folder.mkdir(parents=True)
    history = History(folder, 0)
    history.add({"step": 1, "loss": 2.0}, {"step": 1, "seconds": 0.1})
    history.close()
    return folder


def test_there_is_a_folder_for_each_step_that_trains_or_has_trained(tmp_path: Path) -> None:
    done, running = _train(tmp_path / "done"), _train(tmp_path / "running.partial")
    (tmp_path / "align").mkdir()
    statuses = [
        StepStatus("align/train", "fresh", artefact=Artefact(tmp_path / "align", {})),
        StepStatus("train", "fresh", artefact=Artefact(done, {})),
        StepStatus("finetune/control", "running", partial=running),
        StepStatus("finetune", "missing"),
    ]
    assert curve_folders(statuses) == {"train": done / EVENTS, "finetune-control": running / EVENTS}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["board"], "nothing has been trained yet; train first: sfplus run demo"),
        (["board", "demo", "train.seed=3"], "demo: nothing has been trained yet; train first: sfplus run demo train.s"),
        (["board", "dmo"], "did you mean 'demo'?"),
    ],
)
def test_without_curves_it_says_how_to_get_some(
    words: list[str], message: str, sfplus: Callable, tmp_path: Path
) -> None:
    answer = sfplus(*words, "--workspace", tmp_path)
    assert (answer.code, answer.out) == (2, "") and message in answer.err and answer.err.count("\n") == 1


def test_without_tensorboard_it_says_how_to_install_it(
    sfplus: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train(tmp_path / "cache/train/1")
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    answer = sfplus("board", "--workspace", tmp_path)
    assert answer.code == 1 and "pip install tensorboard\n" in answer.err and answer.err.count("\n") == 1


@pytest.mark.slow
def test_the_page_has_the_curves_until_ctrl_c(tmp_path: Path) -> None:
    _train(tmp_path / "cache/train/1")
    command = [sys.executable, "-m", "sfplus", "board", "--port", "0", "--workspace", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        address = process.stdout.readline().split()[1]
        with urllib.request.urlopen(f"{address}data/runs", timeout=60) as answer:
            assert answer.status == 200
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and err == "sfplus: stopped; the same command resumes\n"
