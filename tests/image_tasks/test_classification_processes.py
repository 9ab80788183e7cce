"""The classification task on two processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from test_classification import images, make_settings
from torch import nn

from sfplus.device import choose_device
from sfplus.image_tasks.classification import ClassificationTask
from sfplus.training.distributed import ProcessGroup
from sfplus.training.engine import train
from sfplus.training.history import read_rows

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "import sys; from pathlib import Path; from test_classification_processes import run; run(Path(sys.argv[1]))"


def run(folder: Path) -> None:
    """Train three layers without batch normalisation in float64, whose sums hardly depend on their order."""
    settings = make_settings(energy={"mode": "mhe", "power": 2}, max_iter=5, base_lr=0.01)
    processes = ProcessGroup(choose_device("cpu"))
    torch.manual_seed(processes.rank)  # the weights of the first process are broadcast
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).double()
    network.register_forward_pre_hook(lambda _, inputs: inputs[0].double())
    task = ClassificationTask(network, images(20), images(7), settings, processes, "")
    train(task, settings, folder, processes)
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    safetensors.torch.save_file(state, folder / f"rank{processes.rank}.safetensors")


@pytest.mark.slow
def test_two_processes_equal_one_classification(tmp_path: Path) -> None:
    """Each process trains on half of a batch and tests on half of the seven images."""
    run(tmp_path / "one")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python"]
    paths = os.pathsep.join(map(str, [ROOT, Path(__file__).parent, Path(__file__).parents[1]]))
    environment = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}
    command = [*launcher, sys.executable, "-c", SCRIPT, str(tmp_path / "two")]
    subprocess.run(command, env=environment, check=True, timeout=300)
    one, *two = (
        safetensors.torch.load_file(tmp_path / name)
        for name in ("one/rank0.safetensors", "two/rank0.safetensors", "two/rank1.safetensors")
    )
    for name, tensor in one.items():
        torch.testing.assert_close(two[0][name], tensor, rtol=0, atol=1e-6)
        assert torch.equal(two[0][name], two[1][name])
    rows = [read_rows(tmp_path / name / "history.jsonl") for name in ("one", "two")]
    for row, expected in zip(*rows, strict=True):
        assert row == pytest.approx(expected, abs=1e-5) and ("accuracy" in row) == (row["step"] in (3, 5))
