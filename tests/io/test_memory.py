"""Freed memory is used again; only the command line changes for good how the process treats it."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sfplus
from sfplus.errors import UsageError


def test_the_library_does_not_call_it() -> None:
    """Programs that use the library keep their memory management."""
    root = Path(sfplus.__file__).parent
    users = {path.relative_to(root).parts[0] for path in root.rglob("*.py") if "keep_freed" in path.read_text("utf-8")}
    assert users == {"cli", "io"}
    assert {path.name for path in (root / "io").glob("*.py") if "mallopt" in path.read_text("utf-8")} == {"memory.py"}


@pytest.mark.parametrize(
    ("module", "arguments"), [("run", ("run", "demo")), ("sweep", ("sweep", "mhe-gan-cifar10", "--seeds", 1))]
)
def test_commands_that_train_call_it(
    module: str,
    arguments: tuple[object, ...],
    sfplus: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    calls: list[str] = []

    def stop(*_: object) -> None:
        calls.append("steps")
        raise UsageError("stop")

    monkeypatch.setattr(f"sfplus.cli.{module}.check_inputs", lambda *_: None, raising=False)
    monkeypatch.setattr(f"sfplus.cli.{module}.keep_freed_memory", lambda: calls.append("kept"))
    monkeypatch.setattr(f"sfplus.cli.{module}.run_steps", stop)
    sfplus(*arguments, "--workspace", tmp_path)
    assert calls == ["kept", "steps"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries treat freed memory in other ways")
@pytest.mark.parametrize(("prepare", "is_kept"), [("", False), ("reuse_freed_blocks", True)])
def test_freed_blocks_are_used_again(prepare: str, is_kept: bool) -> None:
    """Two blocks of 4 MB that are freed together are at the end of the heap, and twice the largest so far."""
    code = f"""
import resource
import numpy as np
from sfplus.io.memory import reuse_freed_blocks
{f"{prepare}()" if prepare else ""}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    return [np.ones(4 << 20, np.uint8) for _ in range(2)]
use(), use()
before = faults()
for _ in range(10):
    use()
print((faults() - before) // 10)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (int(answer.stdout) < 20) == is_kept, answer.stdout
