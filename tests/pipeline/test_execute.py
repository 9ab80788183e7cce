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


@pytest.mark.parametrize(
    "data", [b"", bytes(20), b"{", b"[]", b'{"train": 3}', b'{"train": {"settings": 1}}', b"[" * 99999, b"\xff"]
)
def test_a_damaged_record_is_one_line_and_counts_as_none(data: bytes, tmp_path: Path) -> None:
    assert read_record(tmp_path / "run.json") == {}
    (tmp_path / "run.json").write_bytes(data)
    with pytest.warns(UserWarning, match=r"run.json: is damaged \(.*\); the next run writes it anew"):
        assert read_record(tmp_path / "run.json") == {}
