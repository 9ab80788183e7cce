"""A finished artefact: a folder with a manifest."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfplus.artifacts.layout import REPORT_HTML, REPORT_JSON, REPORT_MARKDOWN
from sfplus.errors import ArtefactError
from sfplus.io.files import digest_files, walk_files, write_json

MANIFEST = "manifest.json"
_CHECKPOINT = "checkpoint-"  # folders from which a stage resumes; deleted once the artefact is in place
# Files with dates and durations are left out of an artefact's content digest.
_TIMED = frozenset({MANIFEST, "tensorboard", "timings.jsonl", REPORT_HTML, REPORT_JSON, REPORT_MARKDOWN})


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
        """Open the artefact in a folder, or return None if there is none.

        Raises:
            ArtefactError: If there is a manifest that cannot be read.
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
        """SHA-256 over the names and bytes of all files, except those that hold times."""
        return str(self.manifest["content"])

    def describe(self) -> str:
        """Name the artefact in a few characters."""
        return f"{self.manifest['stage']} {self.content[:12]}"


def commit(partial: Path, folder: Path, manifest: dict[str, Any]) -> Artefact:
    """Digest the files, write the manifest last, flush it and move the folder into place in one step."""
    names = [
        name for name in walk_files(partial) if name.split("/")[0] not in _TIMED and not name.startswith(_CHECKPOINT)
    ]
    size = sum((partial / name).stat().st_size for name in names)
    manifest = manifest | {"content": digest_files(partial, names), "files": len(names), "bytes": size}
    write_json(partial / MANIFEST, manifest, sync=True, indent=1, sort_keys=True)
    partial.replace(folder)
    for checkpoint in folder.glob(f"{_CHECKPOINT}*"):
        shutil.rmtree(checkpoint)
    return Artefact(folder, manifest)
