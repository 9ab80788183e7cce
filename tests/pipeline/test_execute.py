"""Running the steps of a plan."""

from pathlib import Path

import pytest

from sfplus.artifacts.context import RunContext
from sfplus.errors import UsageError
from sfplus.io.console import Console
from sfplus.pipeline.execute import read_record, run_steps
from sfplus.pipeline.plan import plan
from sfplus.recipes.load import load_recipe


def test_a_folder_of_photos_that_contains_the_cache_is_refused(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"train: {{photos: {tmp_path}}}\n")
    with pytest.raises(UsageError, match="contains the cache"):
        run_steps(plan(load_recipe(tmp_path / "r.yaml")), RunContext(tmp_path / "data", Console(quiet=True), "cpu"))


@pytest.mark.parametrize("text", [None, "", "{"])
def test_a_missing_or_damaged_record_is_empty(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    assert read_record(tmp_path / "run.json") == {}
