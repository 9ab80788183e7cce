"""How the steps of a recipe stand: fresh, running, partial, stale or missing, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfplus.artifacts import cache
from sfplus.artifacts.cache import Artefact
from sfplus.artifacts.context import Run
from sfplus.errors import SfplusError
from sfplus.image_tasks.image_set import PictureSet
from sfplus.io.files import digest_json
from sfplus.pipeline.plan import From, Step, recorded, resolve


@dataclass(frozen=True)
class Standing:
    """How a step stands: fresh, running, partial, stale or missing, and why."""

    step: str
    state: str
    reason: str = ""
    artefact: Artefact | None = None


def standings(steps: Sequence[Step], run: Run, record: Path) -> list[Standing]:
    """How each step stands, nothing being run."""
    done: dict[str, Artefact] = {}
    known = recorded(record)
    rows = []
    for step in steps:
        row = _standing(step, done, run, known.get(step.name))
        if row.artefact:
            done[step.name] = row.artefact
        rows.append(row)
    return rows


def _standing(step: Step, done: Mapping[str, Artefact], run: Run, before: dict[str, Any] | None) -> Standing:
    waits = [source.step for source in step.inputs.values() if isinstance(source, From) and source.step not in done]
    if waits:
        return Standing(step.name, "stale" if before else "missing", f"waits for {waits[0]}")
    try:
        inputs = resolve(step, done, run)
        if any(isinstance(source, PictureSet) and not source.there for source in inputs.values()):
            return Standing(step.name, "missing", "its pictures are still to be downloaded")
        identity = step.stage.identity(step.settings, inputs)
    except SfplusError as error:
        return Standing(step.name, "missing", str(error))
    folder = run.artefact_folder(step.stage.name, digest_json(identity))
    artefact = Artefact.open(folder)
    if artefact:
        return Standing(step.name, "fresh", "", artefact)
    if cache.is_locked(folder):
        return Standing(step.name, "running", "another run is working on it")
    if cache.partial_folder(folder).exists():
        return Standing(step.name, "partial", "was interrupted; a new run goes on from there")
    return Standing(step.name, "stale", _difference(before, identity)) if before else Standing(step.name, "missing")


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Which setting or input changed, in words."""
    old, new = _flat(before["settings"]), _flat(now["settings"])
    changes = [f"{key}: {old.get(key)} -> {new.get(key)}" for key in {**old, **new} if old.get(key) != new.get(key)]
    changes += [
        f"input {key} changed" for key, content in now["inputs"].items() if before["inputs"].get(key) != content
    ]
    if before["version"] != now["version"]:
        changes.append("sfplus makes this stage in another way now")
    return (
        ", ".join(change if len(change) < 120 else change.split(":")[0] + " changed" for change in changes)
        or "its artefact was deleted"
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
