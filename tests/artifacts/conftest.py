"""The fixture of the tests of artefacts."""

from pathlib import Path

import pytest

from sfplus.artifacts.context import RunContext
from sfplus.io.console import Console


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    """A run on the CPU in an empty workspace."""
    return RunContext(tmp_path, Console(quiet=True), "cpu")
