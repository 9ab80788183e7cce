"""Running the steps of a plan."""

from pathlib import Path
from typing import Any

import pytest

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.context import RunContext
from sfplus.errors import UsageError
from sfplus.io.console import Console
from sfplus.pipeline import execute
from sfplus.pipeline.distributed import run_stage_in_all_processes
from sfplus.pipeline.execute import read_record, run_steps
from sfplus.pipeline.plan import plan, steps_until
from sfplus.recipes.load import load_recipe


def test_a_folder_of_photos_that_contains_the_cache_is_refused(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"train: {{photos: {tmp_path}}}\n")
    with pytest.raises(UsageError, match="contains the cache"):
        run_steps(plan(load_recipe(tmp_path / "r.yaml")), RunContext(tmp_path / "data", Console(quiet=True), "cpu"))


@pytest.mark.slow
def test_a_run_restores_what_another_run_at_the_same_time_overwrote_in_the_record(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, steps = tmp_path / "run.json", steps_until(plan(load_recipe(tiny)), "detect")
    run_steps(steps, RunContext(tmp_path, Console(quiet=True), "cpu"), record)
    expected = record.read_bytes()
    assert len(read_record(record)) == 3

    def overwrite(*arguments: Any) -> Artefact:
        record.write_text("{}")
        return run_stage_in_all_processes(*arguments)

    monkeypatch.setattr(execute, "run_stage_in_all_processes", overwrite)
    run_steps(steps, RunContext(tmp_path, Console(quiet=True), "cpu"), record)
    assert record.read_bytes() == expected


@pytest.mark.parametrize(
    "data", [b"", bytes(20), b"{", b"[]", b'{"train": 3}', b'{"train": {"settings": 1}}', b"[" * 99999, b"\xff"]
)
def test_a_damaged_record_is_one_line_and_counts_as_none(data: bytes, tmp_path: Path) -> None:
    assert read_record(tmp_path / "run.json") == {}
    (tmp_path / "run.json").write_bytes(data)
    with pytest.warns(UserWarning, match=r"run.json: is damaged \(.*\); the next run writes it anew"):
        assert read_record(tmp_path / "run.json") == {}
