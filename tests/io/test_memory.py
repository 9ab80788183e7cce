"""Only the command line changes how the process treats freed memory."""

from __future__ import annotations

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
