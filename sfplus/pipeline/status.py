"""The status of the steps of a recipe: fresh, damaged, running, partial, stale or missing, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.cache import is_locked, open_sound
from sfplus.artifacts.context import RunContext
from sfplus.artifacts.stage import partial_folder
from sfplus.errors import SfplusError
from sfplus.image_tasks.image_set import ImageSet
from sfplus.io.files import digest_json
from sfplus.pipeline.execute import Identity, read_record
from sfplus.pipeline.plan import resolve_inputs
from sfplus.recipes.steps import Step, StepOutput


@dataclass(frozen=True)
class StepStatus:
    """The status of a step.

    Attributes:
        step: The name of the step.
        state: `fresh`, `damaged`, `running`, `partial`, `stale` or `missing`.
        reason: Why it is in this state.
        artefact: Its artefact, if it is fresh.
        partial: The folder of an unfinished artefact, if it is running or partial.
    """

    step: str
    state: str
    reason: str = ""
    artefact: Artefact | None = None
    partial: Path | None = None


def step_statuses(steps: Sequence[Step], context: RunContext, record: Path, *, check: bool = False) -> list[StepStatus]:
    """Return the status of each step without running anything.

    Args:
        steps: The steps of a plan.
        context: Workspace, device and console.
        record: The record of what was run last.
        check: Whether the content of all files of artefacts is compared with the digests in their records; else that
            of the files whose size or modification time changed.

    Raises:
        ArtefactError: If a file of an artefact cannot be read, which may be a fault of the disk.
    """
    artefacts: dict[str, Artefact] = {}
    last_run = read_record(record)
    statuses = []
    for step in steps:
        status = _status(step, artefacts, context, last_run.get(step.name), check)
        if status.artefact:
            artefacts[step.name] = status.artefact
        statuses.append(status)
    return statuses


def _status(
    step: Step, artefacts: Mapping[str, Artefact], context: RunContext, last: Identity | None, check: bool
) -> StepStatus:
    outputs = [reference.step for reference in step.inputs.values() if isinstance(reference, StepOutput)]
    if pending := [name for name in outputs if name not in artefacts]:
        return StepStatus(step.name, "stale" if last else "missing", f"waits for {pending[0]}")
    try:
        inputs = resolve_inputs(step, artefacts, context)
        if any(isinstance(value, ImageSet) and not value.is_available for value in inputs.values()):
            return StepStatus(step.name, "missing", "its images are not downloaded yet")
        identity = step.stage.identity(step.settings, inputs)
    except SfplusError as error:
        return StepStatus(step.name, "missing", str(error))
    folder = context.artefact_folder(step.stage.name, digest_json(identity))
    artefact, damage = open_sound(folder, all_content=check)
    if artefact:
        return StepStatus(step.name, "fresh", "", artefact)
    if damage:
        return StepStatus(step.name, "damaged", f"{folder}: {damage}; the next run builds it again")
    if is_locked(folder):
        return StepStatus(step.name, "running", "another run is working on it", partial=partial_folder(folder))
    if partial_folder(folder).exists():
        return StepStatus(step.name, "partial", "was interrupted; a new run resumes it", partial=partial_folder(folder))
    return (
        StepStatus(step.name, "stale", _describe_changes(last, identity)) if last else StepStatus(step.name, "missing")
    )


def _describe_changes(last: Identity, current: Mapping[str, Any]) -> str:
    """Describe in words which settings or inputs changed."""
    old, new = _flatten(last["settings"]), _flatten(current["settings"])
    changes = [f"{key}: {old.get(key)} -> {new.get(key)}" for key in {**old, **new} if old.get(key) != new.get(key)]
    changes += [
        f"input {key} changed" for key, content in current["inputs"].items() if last["inputs"].get(key) != content
    ]
    if last["version"] != current["version"]:
        changes.append("this version of sfplus runs the stage differently")
    return (
        ", ".join(change if len(change) < 120 else change.split(":")[0] + " changed" for change in changes)
        or "its artefact was deleted"
    )


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
