"""Heads and energies on two processes; all checks of `parallel_checks.py` run in the same processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch.multiprocessing as mp
from parallel_checks import CHECKS, work


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Run all checks, and return those that failed on each rank."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, (str(folder),), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_two_processes_equal_one(errors: list[dict[str, str]], check: str) -> None:
    for rank, failed in enumerate(errors):
        assert check not in failed, f"rank {rank}: {failed[check]}"
