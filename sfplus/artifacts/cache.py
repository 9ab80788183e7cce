"""The stage cache: content fingerprints, one lock per artefact, resume, atomic commit.

An artefact is a folder with a `manifest.json`, which is written last; the folder is then moved into place in one step.
No manifest, no artefact. Its fingerprint covers the settings, the inputs by content and the stage's own version, so a
changed setting can never be served from an old cache. Recipes that share a fingerprint share the artefact.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
from pydantic import BaseModel

from sfplus.artifacts.artefact import MANIFEST, Artefact, commit, remove_checkpoints
from sfplus.artifacts.context import RunContext
from sfplus.artifacts.inputs import StageInput, UserInput
from sfplus.artifacts.stage import Job, Stage, partial_folder, parts_folder
from sfplus.errors import ArtefactError, NoUsablePhotoError, SfplusError
from sfplus.io.disk import explain_full_disk, explain_write
from sfplus.io.files import digest_json
from sfplus.io.leftovers import remove_leftovers
from sfplus.io.locks import file_lock, is_held
from sfplus.io.loggers import get_logger

_log = get_logger(__name__)


def run_stage(
    stage: Stage, settings: BaseModel, inputs: Mapping[str, StageInput], context: RunContext, label: str = ""
) -> Artefact:
    """Return the artefact of a stage: from the cache if it is there, else built, or resumed, under its lock."""
    identity = stage.identity(settings, inputs)
    folder = context.artefact_folder(stage.name, digest_json(identity))
    label = label or stage.name
    artefact, _ = open_sound(folder)
    if artefact is None:
        with explain_write(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
        job = Job(settings, inputs, partial_folder(folder), context)
        with _lock(stage, job, folder, label):
            artefact, damage = open_sound(folder)  # the run that held the lock may have built it
            if damage:
                _log.warning("%s: %s; it is built again", folder, damage)
                (folder / MANIFEST).unlink(missing_ok=True)
            built = None if artefact else _build(stage, identity, job, folder, label)
            shutil.rmtree(parts_folder(folder), ignore_errors=True)
        if built:
            return built
    assert artefact is not None
    shutil.rmtree(parts_folder(folder), ignore_errors=True)  # of a process that was killed just before it deleted them
    remove_checkpoints(folder)
    context.console.print_fresh(label)
    _log.debug("%s: fresh: %s", label, folder)
    return artefact


def open_sound(folder: Path, *, all_content: bool = False) -> tuple[Artefact | None, str]:
    """Open the artefact in a folder, if its files are those that its stage wrote.

    Args:
        folder: The folder.
        all_content: Whether the content of all files is compared, not only where size or time differ.

    Returns:
        The artefact, None if there is none or it is damaged; and what is damaged, "" if nothing.

    Raises:
        ArtefactError: If a file cannot be read, which may be a fault of the disk.
    """
    try:
        artefact = Artefact.open(folder)
    except ArtefactError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return None, f"its manifest {error.reason}"
    damage = artefact.find_damage(all_content=all_content) if artefact else ""
    return (None, f"is damaged ({damage})") if damage else (artefact, "")


def open_earlier(folder: Path) -> Artefact | None:
    """Return an artefact whose results may be used again; None if there is none, or it is damaged or unreadable."""
    try:
        return open_sound(folder)[0]
    except ArtefactError:
        return None


def _build(stage: Stage, identity: dict[str, Any], job: Job[Any], folder: Path, label: str) -> Artefact:
    partial, context = job.folder, job.context
    _log.debug("%s: is built in %s, with %s", label, folder, json.dumps(identity, default=str))
    partial.mkdir(exist_ok=True)
    remove_leftovers(partial, locked=True)
    if folder.exists():  # without a manifest it is not an artefact
        shutil.rmtree(folder)
    started, clock = datetime.now(UTC), time.monotonic()
    with context.console.progress(label, resumed=any(partial.iterdir()) or job.parts.is_dir()) as progress:
        with _remove_what_cannot_resume(job), explain_full_disk(partial):
            counts = stage.build(replace(job, context=context.with_progress(progress)))
        for value in job.inputs.values():
            if isinstance(value, UserInput):
                value.check_unchanged()
        manifest = identity | {
            "fingerprint": folder.name,
            "sources": {name: value.describe() for name, value in sorted(job.inputs.items())},
            "counts": counts,
            "device": context.device_description,
            "versions": context.versions(),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - clock, 2),
        }
        _log.debug("%s: done in %s s: %s", label, manifest["seconds"], json.dumps(counts, default=str))
        with explain_write(folder):
            return commit(partial, folder, manifest, job.linked)


@contextmanager
def _remove_what_cannot_resume(job: Job[Any]) -> Iterator[None]:
    """Delete what a failed build leaves if there is nothing to continue: no photo is usable, or it had not begun."""
    try:
        yield
    except SfplusError as error:
        if isinstance(error, NoUsablePhotoError):
            shutil.rmtree(job.parts, ignore_errors=True)
            shutil.rmtree(job.folder)
        elif not any(job.folder.iterdir()) and not job.parts.is_dir():
            job.folder.rmdir()
        raise


@contextmanager
def _lock(stage: Stage, job: Job[Any], folder: Path, label: str) -> Iterator[None]:
    lock, context = file_lock(_lock_file(folder)), job.context
    try:
        with explain_write(folder):
            lock.acquire(timeout=0)
    except filelock.Timeout:
        doing = "helping" if stage.share else "waiting for"
        _log.info("%s: another run is working on this; %s it", label, doing)
        if stage.share:
            with context.console.progress(label, resumed=False) as progress:
                stage.share(replace(job, context=context.with_progress(progress), helps=True))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Return whether a run is working on this artefact now."""
    return is_held(_lock_file(folder))


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")
