"""A run that is killed, and one on two processes, as a user would start them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny import State, write_crops

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import ast
import os
import sys
from pathlib import Path
import safetensors.torch
from tiny import SETTINGS, run, write_crops
from sfplus.datasets.crops import CropDataset
from sfplus.training.settings import TrainingSettings

source, folder, changes = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
paths = sorted(source.glob("*/*.png"))
crops = CropDataset(paths, [int(path.parent.name[-1]) for path in paths], 112, 96)
settings = TrainingSettings.model_validate({**SETTINGS.model_dump(), **ast.literal_eval(changes)})
state, _ = run(crops, folder, settings)
rank = os.environ.get("RANK", "0")
safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, folder / f"rank{rank}.safetensors")
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_crops(folder)
    (folder / "script.py").write_text(SCRIPT)
    return folder


def start(source: Path, folder: Path, processes: int = 1, **changes: object) -> subprocess.Popen[bytes]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, str(source / "script.py"), str(source), str(folder), repr(changes)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE if processes > 1 else None)


def finish(process: subprocess.Popen[bytes], folder: Path) -> State:
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return dict(safetensors.torch.load_file(folder / "rank0.safetensors"))


def test_kill_minus_nine_changes_nothing(source: Path, tmp_path: Path) -> None:
    changes = {"max_iter": 60, "checkpoint_every": 1}
    expected = finish(start(source, tmp_path / "whole", **changes), tmp_path / "whole")
    folder = tmp_path / "killed"
    for wait in (0.11, 0.23, 0.37):
        process = start(source, folder, **changes)
        seen = set(folder.glob("checkpoint-*"))
        while process.poll() is None and not set(folder.glob("checkpoint-*")) - seen:
            time.sleep(0.01)
        time.sleep(wait)
        assert process.poll() is None, "the run was over before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    state = finish(start(source, folder, **changes), folder)
    assert all(torch.equal(tensor, state[name]) for name, tensor in expected.items())
    assert (folder / "history.jsonl").read_bytes() == (tmp_path / "whole" / "history.jsonl").read_bytes()


def test_sigterm_saves_and_ends_by_the_signal(source: Path, tmp_path: Path) -> None:
    process = start(source, tmp_path, max_iter=100_000, checkpoint_every=100_000, log_every=1)
    while process.poll() is None and not (tmp_path / "history.jsonl").is_file():
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == -signal.SIGTERM
    assert len(list(tmp_path.glob("checkpoint-*"))) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"max_iter": 1, "base_lr": 1.0, "momentum": 0.0, "weight_decay": 0.0},  # the difference is the gradient's
        {"max_iter": 8},
    ],
)
def test_two_processes_equal_one(source: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    one = finish(start(source, tmp_path / "one", **changes), tmp_path / "one")
    two = finish(start(source, tmp_path / "two", processes=2, **changes), tmp_path / "two")
    other = safetensors.torch.load_file(tmp_path / "two" / "rank1.safetensors")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6 if changes["max_iter"] == 1 else 1e-5)
        assert torch.equal(two[name], other[name]), f"{name} differs between the processes"
    assert int(two["head.iteration"]) == changes["max_iter"]
    rows = (tmp_path / "two" / "history.jsonl").read_text().splitlines()
    assert len(rows) == len((tmp_path / "one" / "history.jsonl").read_text().splitlines()), "one process writes"


def test_a_batch_that_cannot_be_divided(source: Path, tmp_path: Path) -> None:
    process = start(source, tmp_path, processes=2, batch_size=9)
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    assert b"batch_size: 9 samples cannot be divided among 2 processes; use a multiple of their number" in said
