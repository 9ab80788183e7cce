"""Running the steps of a plan, and the record of what was run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.context import RunContext, is_first
from sfplus.artifacts.inputs import StageInput
from sfplus.errors import ArtefactError, warn_user
from sfplus.io.files import write_json
from sfplus.io.json_files import read_json
from sfplus.io.memory import return_freed_memory
from sfplus.pipeline.distributed import count_local_steps, run_stage_in_all_processes
from sfplus.pipeline.plan import check_inputs, resolve_inputs
from sfplus.pipeline.preflight import check_plan
from sfplus.recipes.steps import Step, UserPhotos


class Identity(TypedDict):
    """The settings, inputs and version that decided the artefact of a step (see `Stage.identity`)."""

    stage: str
    version: int
    settings: dict[str, Any]
    inputs: dict[str, str]


def run_steps(steps: Sequence[Step], context: RunContext, record: Path | None = None) -> dict[str, Artefact]:
    """Run steps in order and return their artefacts by name.

    In a process after the first, steps that only the first process runs are left out.

    Args:
        steps: The steps of a plan.
        context: Workspace, device and console.
        record: A file that remembers what was run, with which `status` compares.
    """
    check_inputs(steps, context.workspace, context)
    check_plan(steps, read_record(record) if record else None)
    if context.device_name != "auto":
        _ = context.device  # a missing device is an error before anything is read
    artefacts: dict[str, Artefact] = {}
    identities: dict[str, Any] = {}
    folders: dict[UserPhotos, StageInput] = {}  # all steps see the photos as they were when the first one read them
    for step in steps[: count_local_steps([step.stage for step in steps])]:
        inputs = resolve_inputs(step, artefacts, context, folders)
        artefacts[step.name] = run_stage_in_all_processes(step.stage, step.settings, inputs, context, step.name)
        return_freed_memory()
        if record and is_first():
            identities[step.name] = step.stage.identity(step.settings, inputs)
            _write_record(record, identities)
    return artefacts


def read_record(record: Path) -> dict[str, Identity]:
    """Read the identities of the steps that were run last, by name; empty if there is no readable record."""
    try:
        return read_json(record, dict[str, Identity], remedy="run again")
    except ArtefactError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            warn_user(f"{record}: {error.reason}; the next run writes it anew")
        return {}


def _write_record(record: Path, identities: dict[str, Any]) -> None:
    """Write all steps of this run so far, since another run at the same time may have lost some, beside others."""
    before = dict(read_record(record))
    if before != (merged := identities | {step: old for step, old in before.items() if step not in identities}):
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, merged, indent=1)
