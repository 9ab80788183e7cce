"""Runs in processes of their own: killed, stopped by signals, and on two processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from test_teacher import create_teacher
from tiny import SETTINGS, State, run, state_of_model, tiny_model, write_crops

from sfplus.datasets.crops import CropDataset
from sfplus.device import choose_device
from sfplus.hypersphere import HEADS
from sfplus.networks.normalize import normalize_crops
from sfplus.recipes.settings.train import TrainSettings
from sfplus.training import face_task
from sfplus.training.face_task import fit

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import ast
import os
import sys
from pathlib import Path
import safetensors.torch
from test_face_task_processes import crops_of, one_run
rank = os.environ.get("RANK", "0")
folder = Path(sys.argv[2])
folder.mkdir(exist_ok=True)
(folder / f"rank{rank}.pid").write_text(str(os.getpid()))
for name, changes in ast.literal_eval(sys.argv[3]).items():
    state = one_run(crops_of(Path(sys.argv[1])), folder / name, **changes)
    state = {key: tensor.contiguous() for key, tensor in state.items()}
    safetensors.torch.save_file(state, folder / name / f"rank{rank}.safetensors")
"""
pytestmark = pytest.mark.slow
Run = subprocess.Popen[bytes]


def crops_of(source: Path) -> CropDataset:
    paths = sorted(source.glob("*/*.png"))
    return CropDataset(paths, [int(path.parent.name[-1]) for path in paths], 112, 96)


def one_run(crops: CropDataset, folder: Path, double: bool = False, **changes: Any) -> State:
    """Return the state after a run of the tiny model; in float64 sums hardly depend on their order."""
    settings = TrainSettings.model_validate({**SETTINGS.model_dump(), **changes})
    if not double:
        return run(crops, folder, settings)[0]
    face_task.normalize_crops = lambda pixels: normalize_crops(pixels).double()  # type: ignore[attr-defined]
    try:
        network, head = (module.double() for module in tiny_model(settings))
        teacher = create_teacher(crops, settings, torch.float64) if settings.teacher else None
        used = head if settings.classifies else None
        fit(network, used, crops, settings, folder, choose_device("cpu"), teacher=teacher)
    finally:
        face_task.normalize_crops = normalize_crops  # type: ignore[attr-defined]
    return state_of_model(network, head)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_crops(folder)
    (folder / "script.py").write_text(SCRIPT)
    return folder


def start(
    source: Path,
    folder: Path,
    runs: dict[str, dict[str, Any]],
    processes: int = 1,
    variables: Mapping[str, str] | None = None,
) -> Run:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    folders = [ROOT, Path(__file__).parent, Path(__file__).parents[1]]
    paths = os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= variables or {}
    command = [sys.executable, *launcher, str(source / "script.py"), str(source), str(folder), repr(runs)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def finish(process: Run) -> str:
    _, messages = process.communicate(timeout=600)
    assert process.returncode == 0, messages.decode()
    return messages.decode()


def state_of(folder: Path, rank: int = 0) -> State:
    return dict(safetensors.torch.load_file(folder / f"rank{rank}.safetensors"))


def wait_for(process: Run, folder: Path, pattern: str, count: int = 1) -> None:
    """Wait until a running process has written a number of files that are not empty."""
    while process.poll() is None and sum(path.stat().st_size > 0 for path in folder.glob(pattern)) < count:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[1].decode()


def test_killed_run_equals_an_uninterrupted_one(source: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"max_iter": 200, "checkpoint_every": 1}
    expected = one_run(crops_of(source), tmp_path / "whole", **changes)
    folder = tmp_path / "killed"
    for number, wait in enumerate((0.11, 0.23, 0.37)):
        process = start(source, tmp_path, {"killed": changes})
        previous = {path.name for path in folder.glob("checkpoint-*")}
        while process.poll() is None and not {path.name for path in folder.glob("checkpoint-*")} - previous:
            time.sleep(0.01)
        time.sleep(wait)
        assert process.poll() is None, f"run {number} ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(start(source, tmp_path, {"killed": changes}))
    state = state_of(folder)
    assert all(torch.equal(tensor, state[name]) for name, tensor in expected.items())
    assert (folder / "history.jsonl").read_bytes() == (tmp_path / "whole" / "history.jsonl").read_bytes()


def test_two_processes_equal_one(source: Path, tmp_path: Path) -> None:
    """Compare gradients of each head and energy, replicated and sharded, in float64, and a whole run in float32."""
    plain = {"max_iter": 1, "base_lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "double": True, "log_every": 1}
    modes = ("paper", "batch", "caffe")
    runs: dict[str, dict[str, Any]] = {
        f"{head}-{mode}": {**plain, "head": {"name": head}, "energy": {"mode": mode, "weight": 0.5}}
        for number, head in enumerate(HEADS)
        for mode in (modes if head == "asoftmax" else modes[number % 3 :][:1])
    }
    runs |= {
        "passes": {**plain, "accumulate": 5},
        "adaface-twice": {**plain, "max_iter": 2, "head": {"name": "adaface"}},
    }
    learned = {"model": "t.onnx", "cosine": 2, "relational": 3}
    runs |= {
        "teacher": {**plain, "teacher": learned},
        "teacher-alone": {**plain, "energy": None, "teacher": {**learned, "classify": False}},
    }
    runs |= {"whole": {"max_iter": 8}, "average": {"max_iter": 8, "ema": 0.5, "clip": 1.0, "double": True}}
    sharded = {"classes": "sharded", "energy": {"mode": "paper", "weight": 0.5}}
    runs |= {f"{head}-shards": {**plain, **sharded, "head": {"name": head}} for head in HEADS}
    runs |= {"teacher-shards": {**plain, **sharded, "teacher": learned, "clip": 1.0}}
    runs |= {"shards": {"max_iter": 8, "clip": 1.0, "accumulate": 5, "double": True, **sharded}}
    finish(start(source, tmp_path, runs, processes=2))
    crops = crops_of(source)
    for name, changes in runs.items():
        one = one_run(crops, tmp_path / f"{name} on one", **{**changes, "classes": "replicated"})
        two, second = (state_of(tmp_path / name, rank) for rank in (0, 1))
        for key, tensor in one.items():
            loose = {"rtol": 1e-9, "atol": 1e-11} if changes.get("double") else {"rtol": 0, "atol": 1e-5}
            torch.testing.assert_close(two[key], tensor, **loose, msg=lambda m, at=f"{name} {key}": f"{at}: {m}")
        assert all(torch.equal(two[key], tensor) for key, tensor in second.items()), f"{name} differs between processes"
        rows = [
            [json.loads(line) for line in (tmp_path / folder / "history.jsonl").read_text().splitlines()]
            for folder in (name, f"{name} on one")
        ]
        assert len(rows[0]) == len(rows[1]), "one process writes"
        for value in ("loss", "accuracy", "energy", "feature_length", "distillation", "teacher_cosine"):
            first, last = ([row.get(value) or 0.0 for row in half] for half in rows)
            assert first == pytest.approx(last, rel=1e-4), name


def test_another_number_of_processes_resumes_with_a_warning(source: Path, tmp_path: Path) -> None:
    """Continue on two processes and again on one; shards and their velocities are redistributed."""
    changes: dict[str, Any] = {"max_iter": 12, "checkpoint_every": 6}
    crops = crops_of(source)
    expected = one_run(crops, tmp_path / "whole", **changes)
    changes["classes"] = "sharded"
    settings = TrainSettings.model_validate({**SETTINGS.model_dump(), **changes})
    with pytest.raises(ZeroDivisionError):
        run(crops, tmp_path / "parts", settings, lambda step, _: 1 / (7 - step))  # type: ignore[arg-type, return-value]
    messages = finish(start(source, tmp_path, {"parts": changes}, processes=2))
    cpu = choose_device("cpu").describe()
    assert messages.count(f"was written by {cpu} and is continued by 2 processes, each on {cpu}") == 1
    assert "no longer equal those of an uninterrupted run bit for bit" in messages
    with pytest.warns(UserWarning, match=f"was written by 2 processes, each on {cpu} and is continued by cpu"):
        again = one_run(crops, tmp_path / "parts", **changes)
    for key, tensor in expected.items():
        torch.testing.assert_close(again[key], tensor, rtol=0, atol=1e-5)
        assert torch.equal(again[key], state_of(tmp_path / "parts")[key])
    velocities = [
        safetensors.torch.load_file(tmp_path / name / "checkpoint-000012" / "optimizer.safetensors")
        for name in ("whole", "parts")
    ]
    assert velocities[0].keys() == velocities[1].keys()
    for key, tensor in velocities[0].items():
        torch.testing.assert_close(velocities[1][key], tensor, rtol=1e-3, atol=1e-3)


def test_sigterm_saves_a_checkpoint_and_ends_the_process(source: Path, tmp_path: Path) -> None:
    endless = {"long": {"max_iter": 100_000, "checkpoint_every": 100_000, "log_every": 1}}
    process = start(source, tmp_path, endless)
    wait_for(process, tmp_path / "long", "history.jsonl")  # a row: the first step is done, and signals are deferred
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGTERM
    assert len(list((tmp_path / "long").glob("checkpoint-*"))) == 1


def test_sigterm_to_one_process_stops_both_after_the_same_step(source: Path, tmp_path: Path) -> None:
    process = start(source, tmp_path, {"long": {"max_iter": 100_000, "checkpoint_every": 100_000}}, processes=2)
    wait_for(process, tmp_path / "long", "history.jsonl")
    os.kill(int((tmp_path / "rank1.pid").read_text()), signal.SIGTERM)
    _, messages = process.communicate(timeout=300)
    assert process.returncode != 0
    assert len(list((tmp_path / "long").glob("checkpoint-*"))) == 1
    assert b"Signal 15 (SIGTERM)" in messages and b"TrainingError" not in messages


def test_killed_process_ends_the_others(source: Path, tmp_path: Path) -> None:
    """Start the processes without a launcher, which could end the survivor before it notices."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    runs = {"long": {"max_iter": 100_000, "checkpoint_every": 5}}
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    survivor, killed = (
        start(source, tmp_path, runs, variables={**group, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"
    )
    wait_for(survivor, tmp_path / "long", "checkpoint-*", 2)
    killed.kill()
    killed.communicate()
    _, messages = survivor.communicate(timeout=300)
    assert survivor.returncode != 0
    assert b"another process of this training is gone or does not answer" in messages
    assert b"started again, the training continues from its newest checkpoint" in messages
    assert len(list((tmp_path / "long").glob("checkpoint-*"))) == 2
