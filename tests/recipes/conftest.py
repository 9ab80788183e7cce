"""The fixtures of the tests of recipes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sfplus.errors import RecipeError
from sfplus.recipes.load import load_recipe


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[[str], Path]:
    """Write a recipe and return its file."""

    def write(text: str) -> Path:
        path = tmp_path / "r.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def check_refused(write_recipe: Callable[[str], Path]) -> Callable[[str, int, str], None]:
    """Check that a recipe is refused in one line that names the line of the file and contains a message."""

    def check(text: str, line: int, message: str) -> None:
        path = write_recipe(text)
        with pytest.raises(RecipeError) as error:
            load_recipe(path)
        assert message in str(error.value) and error.value.where == f"{path}:{line}" and "\n" not in str(error.value)

    return check
