"""Artefacts: their manifest, and the digest of their content."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from text_stage import run_text_stage

from sfplus.artifacts.artefact import MANIFEST
from sfplus.artifacts.context import RunContext
from sfplus.artifacts.stage import Job, Stage
from sfplus.errors import ArtefactError
from sfplus.io.console import Console


def test_times_do_not_change_the_content(context: RunContext, tmp_path: Path) -> None:
    second = RunContext(tmp_path / "second", Console(quiet=True), "cpu")
    assert run_text_stage(context).content == run_text_stage(second).content
    assert run_text_stage(context, text="y").content != run_text_stage(context).content


def test_checkpoints_are_deleted_once_the_artefact_is_in_place(context: RunContext) -> None:
    def build(job: Job) -> dict[str, Any]:
        (job.folder / "checkpoint-000010").mkdir(exist_ok=True)
        (job.folder / "checkpoint-000010" / "x").write_text(str(time.time()))
        return {}

    artefact = run_text_stage(context, Stage("train", 1, build))
    assert [path.name for path in artefact.folder.iterdir()] == ["manifest.json"] and artefact.manifest["files"] == 0


def test_a_damaged_manifest_is_an_error_with_a_remedy(context: RunContext) -> None:
    folder = run_text_stage(context).folder
    for text in ("{", "[]", "{}"):
        (folder / MANIFEST).write_text(text)
        with pytest.raises(ArtefactError, match="delete this folder"):
            run_text_stage(context)


def test_the_manifest_is_readable_json(context: RunContext) -> None:
    text = (run_text_stage(context).folder / MANIFEST).read_text()
    assert json.loads(text)["stage"] == "write" and text.count("\n") > 10
