"""A finished artefact: a folder with a manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from sfplus.artifacts.file_record import (
    RECORD,
    content_digest,
    digest_all,
    find_changes,
    read_record,
    remember,
    write_record,
)
from sfplus.artifacts.layout import REPORT_HTML, REPORT_JSON, REPORT_MARKDOWN
from sfplus.errors import ArtefactError
from sfplus.io.disk import flush, flush_all
from sfplus.io.files import digest_json, walk_files, write_json
from sfplus.io.json_files import read_json

MANIFEST = "manifest.json"
_CHECKPOINT = "checkpoint-"  # folders from which a stage resumes; deleted once the artefact is in place
# Files with dates and durations are left out of an artefact's content digest.
_REPORTS = frozenset({REPORT_HTML, REPORT_JSON, REPORT_MARKDOWN})
_UNREAD = frozenset({MANIFEST, RECORD, "tensorboard", "timings.jsonl"})  # no stage reads them, so they may change
_OF_SYSTEMS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})  # written by programs that show folders
_REMEDY = "delete this folder and run again"


@with_config(ConfigDict(extra="allow"))
class _Manifest(TypedDict):
    stage: str
    version: int
    settings: dict[str, Any]
    inputs: dict[str, str]
    sources: dict[str, str]
    counts: dict[str, Any]
    fingerprint: str
    device: str
    seconds: float
    content: str
    digest: NotRequired[str]  # of all the rest; artefacts of earlier versions have none


@dataclass(frozen=True)
class Artefact:
    """A finished artefact, read-only.

    Attributes:
        folder: Its folder.
        manifest: The content of `manifest.json`: stage, version, settings, inputs, content, counts, device, versions,
            times.
    """

    folder: Path
    manifest: dict[str, Any] = field(repr=False)

    @classmethod
    def open(cls, folder: Path) -> Artefact | None:
        """Open the artefact in a folder, or return None if there is none; its files are not looked at.

        Raises:
            ArtefactError: If there is a manifest that cannot be read, or was changed.
        """
        path = folder / MANIFEST
        try:
            manifest: dict[str, Any] = dict(read_json(path, _Manifest, remedy=_REMEDY))
        except ArtefactError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return None
            raise
        if "digest" in manifest and manifest["digest"] != _manifest_digest(manifest):
            raise ArtefactError("is damaged (it was changed)", where=path, remedy=_REMEDY)
        return cls(folder, manifest)

    @property
    def content(self) -> str:
        """SHA-256 over the names and bytes of all files, except those that hold times."""
        return str(self.manifest["content"])

    def describe(self) -> str:
        """Name the artefact in a few characters."""
        return f"{self.manifest['stage']} {self.content[:12]}"

    def find_damage(self, *, all_content: bool = False) -> str:
        """Return the first file that is missing or was changed, and how; "" if none.

        Sizes and modification times are compared, and the content of files whose time differs.

        Args:
            all_content: Whether the content of all files is compared.

        Raises:
            ArtefactError: If a file cannot be read, which may be a fault of the disk.
        """
        changes = find_changes(self.folder, all_content=all_content)
        if changes is None:  # an artefact of an earlier version, or a damaged record
            digests = digest_all(self.folder, _recorded_files(self.folder))
            if _content(digests) != self.content:
                return "its files were changed"
            remember(self.folder, digests)
            return ""
        if all_content and not changes:
            record = read_record(self.folder) or {}
            if _content({name: file.sha256 for name, file in record.items()}) != self.content:
                return f"{RECORD} was changed"
        return changes


def commit(partial: Path, folder: Path, manifest: dict[str, Any], linked: Mapping[str, str] | None = None) -> Artefact:
    """Digest the files and flush them, write the manifest last, and move the folder into place in one step.

    Args:
        partial: The folder in which the artefact grew.
        folder: Its place.
        manifest: What the stage says about it.
        linked: The SHA-256 of files that are links to those of earlier artefacts, which were flushed then, by name. A
            folder of links alone is not flushed: if a power cut loses one, the artefact is built again.
    """
    digests = digest_all(partial, _recorded_files(partial), linked, durable=True)
    sizes = [size for name, size in write_record(partial, digests).items() if name not in _REPORTS]
    manifest = manifest | {"content": _content(digests), "files": len(sizes), "bytes": sum(sizes)}
    manifest = json.loads(json.dumps(manifest))  # as it will be read: the digest covers keys as texts
    manifest["digest"] = _manifest_digest(manifest)
    new = {PurePosixPath(name).parent for name in digests.keys() - (linked or {}).keys()}
    flush_all(partial / parent for parent in {PurePosixPath(), *new, *(up for folder in new for up in folder.parents)})
    write_json(partial / MANIFEST, manifest, indent=1, sort_keys=True)
    partial.replace(folder)
    flush(folder.parent)  # before what it was made from is deleted
    remove_checkpoints(folder)
    return Artefact(folder, manifest)


def remove_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a finished artefact; several processes may do so at once."""
    for checkpoint in folder.glob(f"{_CHECKPOINT}*"):
        shutil.rmtree(checkpoint, ignore_errors=True)


def _recorded_files(folder: Path) -> list[str]:
    return [
        name
        for name in walk_files(folder)
        if name.split("/")[0] not in _UNREAD
        and not name.startswith(_CHECKPOINT)
        and name.rpartition("/")[2] not in _OF_SYSTEMS
    ]


def _content(digests: dict[str, str]) -> str:
    return content_digest((name, digest) for name, digest in digests.items() if name not in _REPORTS)


def _manifest_digest(manifest: dict[str, Any]) -> str:
    return digest_json({key: value for key, value in manifest.items() if key != "digest"})
