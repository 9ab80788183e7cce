"""The stage cache: content fingerprints, one lock per artefact, resume, atomic commit.

An artefact is a folder with a `manifest.json`, which is written last; the folder is then moved into place in one step.
No manifest, no artefact. Its fingerprint covers the settings, the inputs by content and the stage's own version, so a
changed setting can never be served from an old cache; recipes that share a fingerprint share the artefact.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
from pydantic import BaseModel

from sfplus.artifacts.context import Run
from sfplus.artifacts.inputs import Source
from sfplus.errors import ArtefactError
from sfplus.io.files import digest_json, file_digest, walk_files
from sfplus.recipes.settings.engine import INDIFFERENT

MANIFEST = "manifest.json"
_CHECKPOINT = "checkpoint-"  # folders that a stage goes on from; dropped once the artefact is in place
# What holds dates and durations is left out of an artefact's content digest.
_TIMED = frozenset({MANIFEST, "tensorboard", "timings.jsonl", "report.html", "report.json", "report.md"})


@dataclass(frozen=True)
class Artefact:
    """A finished artefact, read only.

    Attributes:
        folder: where it lies.
        manifest: what `manifest.json` says: stage, version, settings, inputs, content, counts, device, versions, times.
    """

    folder: Path
    manifest: dict[str, Any] = field(repr=False)

    @classmethod
    def open(cls, folder: Path) -> Artefact | None:
        """The artefact in `folder`, or None when there is none.

        Raises:
            ArtefactError: a manifest is there and cannot be read.
        """
        try:
            manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
            manifest["content"], manifest["stage"]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ArtefactError(
                "its manifest is damaged", where=folder, remedy="delete this folder and run again"
            ) from error
        return cls(folder, manifest)

    @property
    def content(self) -> str:
        """SHA-256 over the names and bytes of all its files but those that hold times."""
        return str(self.manifest["content"])

    def describe(self) -> str:
        """Which artefact this is, in a few characters."""
        return f"{self.manifest['stage']} {self.content[:12]}"


@dataclass(frozen=True)
class Job:
    """What a stage's `build` works with.

    Attributes:
        settings: the stage's validated settings.
        inputs: its inputs by name.
        folder: where it writes; it may hold what an interrupted run of the same fingerprint left.
        run: device and console.
    """

    settings: Any
    inputs: Mapping[str, Any]
    folder: Path
    run: Run

    @property
    def parts(self) -> Path:
        """Where the parts of shared work lie until the artefact is in place (see parts.py)."""
        return parts_folder(self.folder)

    @property
    def is_over(self) -> bool:
        """Whether the artefact is in place, made by another process."""
        return (self.folder.with_suffix("") / MANIFEST).is_file()


@dataclass(frozen=True)
class Stage:
    """A stage: `run(settings, inputs, run) -> Artefact`.

    Attributes:
        name: the key in recipes.
        version: raised whenever the same settings and inputs would give another artefact.
        build: does the work in `job.folder` and returns counts for the manifest and the summary line.
        share: how another process helps while one builds; None: it waits.
    """

    name: str
    version: int
    build: Callable[[Job], dict[str, Any]]
    share: Callable[[Job], object] | None = None

    def identity(self, settings: BaseModel, inputs: Mapping[str, Source]) -> dict[str, Any]:
        """All that decides the artefact, ready for JSON; its digest is the fingerprint."""
        return {
            "stage": self.name,
            "version": self.version,
            "settings": settings.model_dump(mode="json", exclude=set(INDIFFERENT)),
            "inputs": {name: source.content for name, source in sorted(inputs.items())},
        }

    def run(self, settings: BaseModel, inputs: Mapping[str, Source], run: Run, label: str = "") -> Artefact:
        """Return the artefact, from the cache where it is there, else built, or resumed, under its lock."""
        identity = self.identity(settings, inputs)
        folder = run.artefact_folder(self.name, digest_json(identity))
        label = label or self.name
        found = Artefact.open(folder)
        if found is None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with self._lock(settings, inputs, run, folder, label):
                found = Artefact.open(folder)  # the run we waited for may have made it
                built = None if found else self._build(identity, settings, inputs, run, folder, label)
                shutil.rmtree(parts_folder(folder), ignore_errors=True)
            if built:
                return built
        assert found is not None
        run.console.print_fresh(label)
        return found

    def _build(
        self,
        identity: dict[str, Any],
        settings: BaseModel,
        inputs: Mapping[str, Source],
        run: Run,
        folder: Path,
        label: str,
    ) -> Artefact:
        partial, parts = partial_folder(folder), parts_folder(folder)
        partial.mkdir(exist_ok=True)
        for leftover in partial.rglob(".*.part"):  # what a kill left of a file that was being written
            leftover.unlink()
        if folder.exists():  # without a manifest it is no artefact
            shutil.rmtree(folder)
        started, clock = datetime.now(UTC), time.monotonic()
        with run.console.progress(label, resumed=any(partial.iterdir()) or parts.is_dir()) as step:
            counts = self.build(Job(settings, inputs, partial, run.at(step)))
            manifest = identity | {
                "fingerprint": folder.name,
                "sources": {name: source.describe() for name, source in sorted(inputs.items())},
                "counts": counts,
                "device": run.device_said,
                "versions": run.versions(),
                "started": started.isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - clock, 2),
            }
            return commit(partial, folder, manifest)

    @contextmanager
    def _lock(
        self, settings: BaseModel, inputs: Mapping[str, Source], run: Run, folder: Path, label: str
    ) -> Iterator[None]:
        lock = filelock.FileLock(_lock_file(folder))
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            doing = "helping" if self.share else "waiting for"
            run.console.print(f"{label}: another run is working on this; {doing} it")
            if self.share:
                with run.console.progress(label, resumed=False) as step:
                    self.share(Job(settings, inputs, partial_folder(folder), run.at(step)))
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def partial_folder(folder: Path) -> Path:
    """Where an artefact grows before it is moved to `folder`."""
    return folder.with_suffix(".partial")


def parts_folder(folder: Path) -> Path:
    """Where the parts of an artefact lie that several processes make together."""
    return folder.with_suffix(".parts")


def commit(partial: Path, folder: Path, manifest: dict[str, Any]) -> Artefact:
    """Digest the files, write the manifest last, flush it and move the folder into place in one step."""
    lines, size = [], 0
    for name in walk_files(partial):
        if name.split("/")[0] in _TIMED or name.startswith(_CHECKPOINT):
            continue
        lines.append([name, file_digest(partial / name)])
        size += (partial / name).stat().st_size
    manifest = manifest | {"content": digest_json(lines), "files": len(lines), "bytes": size}
    with (partial / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder)
    for checkpoint in folder.glob(f"{_CHECKPOINT}*"):
        shutil.rmtree(checkpoint)
    return Artefact(folder, manifest)


def is_locked(folder: Path) -> bool:
    """Whether a run is working on this artefact now."""
    if not _lock_file(folder).exists():
        return False
    try:
        with filelock.FileLock(_lock_file(folder), timeout=0):
            return False
    except filelock.Timeout:
        return True


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")
