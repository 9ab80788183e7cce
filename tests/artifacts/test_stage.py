"""The functions of stages, which are imported when they are called."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from sfplus.artifacts.stage import Deferred


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that remembers whether garbage was collected while it was imported."""
    (tmp_path / "deferred_example.py").write_text(
        "import gc\ncollects = gc.isenabled()\ndef build(job): return job, collects\n"
    )
    (tmp_path / "deferred_broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "deferred_example", raising=False)
    return "deferred_example"


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_not_collected_during_the_first_import_only(module: str, enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    try:
        assert module not in sys.modules
        assert Deferred(f"{module}:build")("job") == ("job", False) and gc.isenabled() == enabled  # type: ignore[arg-type]
        frozen = gc.get_freeze_count()
        assert frozen and Deferred(f"{module}:build").resolve() is sys.modules[module].build
        assert gc.get_freeze_count() <= frozen  # nothing more is left out by the next call
        with pytest.raises(ZeroDivisionError):
            Deferred("deferred_broken:build").resolve()
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
        gc.unfreeze()
