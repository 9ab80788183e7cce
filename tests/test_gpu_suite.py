"""`make gpu` on a machine without a GPU: it refuses, or tries everything at small sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SUITE = Path(__file__).parent / "benchmarks" / "gpu.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SUITE, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_how_to_try_it() -> None:
    answer = run()
    assert answer.returncode == 2 and answer.stderr.count("\n") == 1 and "DEVICE=cpu" in answer.stderr


@pytest.mark.slow
def test_everything_is_measured_on_a_cpu(tmp_path: Path) -> None:
    answer = run("--device", "cpu", "--out", tmp_path)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert not report["failures"] and all(report["figures"].values())
    table = (tmp_path / "README.md").read_text()
    assert "small sizes" in table and "training step, sphereface4" in table
