"""The fixture of the tests of recipes."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[[str], Path]:
    """Write a recipe and return its file."""

    def write(text: str) -> Path:
        path = tmp_path / "r.yaml"
        path.write_text(text)
        return path

    return write
