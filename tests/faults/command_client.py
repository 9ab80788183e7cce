"""Starts commands of sfplus in a server that has imported everything (see `command_server`)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 120


@dataclass(frozen=True)
class Answer:
    """The exit code of a command, negative for a signal, and its output."""

    code: int
    out: str
    err: str


class Command:
    """A command that runs; its folder also holds its home and its temporary files."""

    def __init__(
        self, server: CommandServer, folder: Path, words: tuple[object, ...], fault: dict[str, Any],
        patches: dict[str, Any],
    ) -> None:  # fmt: skip
        self._server, self._folder = server, folder
        server.count += 1
        self._outputs = [server.outputs / f"{server.count}.{name}" for name in ("out", "err")]
        home = {"SFPLUS_HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
        (folder / "tmp").mkdir(exist_ok=True)
        self.pid = server.ask(
            words=list(map(str, words)), folder=str(folder), fault=fault, environment=home,
            patches=patches,
            stdout=str(self._outputs[0]), stderr=str(self._outputs[1]),
        )  # fmt: skip

    def kill(self) -> None:
        """Kill the command with all processes that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def wait(self) -> Answer:
        """Wait until the command ends."""
        code = self._server.ask(pid=self.pid, seconds=SECONDS)
        self.kill()  # a child process that it may have left
        # A command that is killed at once has not opened its outputs.
        out, err = (file.read_text(errors="replace") if file.exists() else "" for file in self._outputs)
        return Answer(code, out, err)


class CommandServer:
    """A process that runs commands, one after the other or several at once."""

    def __init__(self, outputs: Path) -> None:
        self.outputs, self.count = outputs, 0
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("command_server.py")],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "COLUMNS": "200"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def close(self) -> None:
        """End the server."""
        self._process.kill()
        self._process.communicate()

    def ask(self, **request: Any) -> int:
        """Send a request and return the answer."""
        assert self._process.stdin and self._process.stdout
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return int(json.loads(self._process.stdout.readline()))

    def start(self, folder: Path, *words: object, patches: dict[str, Any] | None = None, **fault: Any) -> Command:
        """Start `sfplus WORDS` in a folder."""
        return Command(self, folder, words, fault, patches or {})

    def run(self, folder: Path, *words: object, patches: dict[str, Any] | None = None, **fault: Any) -> Answer:
        """Run `sfplus WORDS` in a folder until it ends."""
        return self.start(folder, *words, patches=patches, **fault).wait()
