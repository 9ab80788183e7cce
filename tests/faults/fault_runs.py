"""Runs of the cases in one folder: undisturbed, and with a fault and a second run."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_client import Answer, CommandServer
from fault_cases import Case, cases, tree, write_material
from local_server import Server, serve

_COMMIT = "c0ffee" * 6 + "c0ff"


@dataclass(frozen=True)
class Undisturbed:
    """What a command leaves without a fault.

    Attributes:
        answer: exit code and output.
        files: what is in the folder (see `tree`).
        changes: number of changes of files.
        seconds: duration.
        size: bytes of the largest file that it wrote.
        total: bytes of all files that it wrote.
    """

    answer: Answer
    files: dict[str, str]
    changes: int
    seconds: float
    size: int
    total: int


class FaultRuns:
    """Runs cases in `folder/work`, which each run starts with the inputs of its case alone."""

    def __init__(self, folder: Path, server: CommandServer, material: Path, address: str) -> None:
        self.folder, self.material, self.server = folder / "work", material, server
        self.cases = cases(material, address)
        self._undisturbed: dict[str, Undisturbed] = {}

    def prepare(self, case: Case) -> None:
        """Empty the folder and copy the inputs of a case."""
        shutil.rmtree(self.folder, ignore_errors=True)
        case.prepare(self.material, self.folder)

    def run(self, case: Case, **fault: Any) -> Answer:
        """Run the command of a case, with a fault (see `command_server.install`)."""
        return self.server.run(self.folder, *case.words, patches=case.patches, **fault)

    def undisturbed(self, case: Case) -> Undisturbed:
        """Run a case without a fault, once, and return what it left."""
        if case.name not in self._undisturbed:
            self.prepare(case)
            before = _files(self.folder)
            log, clock = self.folder.with_name("changes"), time.monotonic()
            answer = self.run(case, log=str(log))
            seconds = time.monotonic() - clock
            assert answer.code == 0, answer.err
            written = _files(self.folder)
            sizes = [size for path, (size, time_ns) in written.items() if before.get(path) != (size, time_ns)]
            files = tree(self.folder)
            changes = int(log.read_text())
            largest = max(sizes, default=0)
            self._undisturbed[case.name] = Undisturbed(answer, files, changes, seconds, largest, sum(sizes))
        return self._undisturbed[case.name]

    def kill(self, case: Case, kind: str, fraction: float) -> Answer:
        """Run a case that is killed.

        Args:
            case: the case.
            kind: `change`: before a change of a file; `bytes`: in the middle of a write; `time`: at a time.
            fraction: of all changes, of the bytes of the largest file, or of the duration.
        """
        expected = self.undisturbed(case)
        self.prepare(case)
        if kind == "change":
            return self.run(case, change=math.ceil(fraction * expected.changes))
        if kind == "bytes":
            return self.run(case, bytes=int(fraction * expected.size))
        command = self.server.start(self.folder, *case.words, patches=case.patches)
        time.sleep(fraction * expected.seconds)
        command.kill()
        return command.wait()

    def compare(self, case: Case) -> list[str]:
        """Return how the folder differs from that of the undisturbed run: missing, changed and left files."""
        cached = {path.relative_to(self.folder).as_posix() for path in self.folder.glob(case.cached or " ")}
        expected, actual = (
            {name: content for name, content in files.items() if name not in cached}
            for files in (self.undisturbed(case).files, tree(self.folder))
        )
        return [
            *(f"missing: {name}" for name in sorted(expected.keys() - actual.keys())),
            *(f"differs: {name}" for name in sorted(expected) if actual.get(name, expected[name]) != expected[name]),
            *(f"left: {name}" for name in sorted(actual.keys() - expected.keys())),
        ]


def _files(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return the size and the modification time of each file."""
    status = {path: path.lstat() for path in folder.rglob("*") if path.is_file()}
    return {path: (file.st_size, file.st_mtime_ns) for path, file in status.items()}


@contextmanager
def fault_runs(folder: Path) -> Iterator[FaultRuns]:
    """Start the servers and write the inputs of all cases."""
    (folder / "material").mkdir()
    (folder / "output").mkdir()
    commands = CommandServer(folder / "output")
    try:
        with serve() as web:
            write_material(folder / "material", commands)
            _serve_hub(folder / "material", web)
            yield FaultRuns(folder, commands, folder / "material", web.address)
    finally:
        commands.close()


def _serve_hub(material: Path, web: Server) -> None:
    """Serve the model as `hf:me/tiny`, and the files of LFW."""
    files = {path.name: path.read_bytes() for path in (material / "model").iterdir()}
    listed = [{"rfilename": name} for name in files]
    info = {"id": "me/tiny", "modelId": "me/tiny", "sha": _COMMIT, "siblings": listed, "private": False}
    names = [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in files.items()]
    kind = {"Content_Type": "application/json"}
    for reference in ("main", _COMMIT):
        web.put(f"/api/models/me/tiny/revision/{reference}", json.dumps(info).encode(), **kind)
        web.put(f"/api/models/me/tiny/tree/{reference}", json.dumps(names).encode(), **kind)
        for name, data in files.items():
            web.put(f"/me/tiny/resolve/{reference}/{name}", data, ETag=f'"{name}"', X_Repo_Commit=_COMMIT)
    for name in ("lfw.tgz", "pairs.txt"):
        web.put(f"/{name}", (material / name).read_bytes())
