"""The history of a run: one JSON row per logged step, and the same curves for TensorBoard."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfplus.io.files import write_atomically

HISTORY, TIMINGS = "history.jsonl", "timings.jsonl"
EVENTS = "tensorboard"  # the folder of TensorBoard's files
HistoryRow = dict[str, int | float | None]


class History:
    """A writer of `history.jsonl`, `timings.jsonl` and `tensorboard/` in a folder.

    `history.jsonl` is a function of settings, data, device and threads, whether or not the run was interrupted, so
    it can be hashed. `timings.jsonl` and TensorBoard's files hold times and cannot.

    Args:
        folder: an existing folder.
        step: number of completed updates; rows of later steps, and a row cut short by a crash, are dropped because they
            will be written again.

    Attributes:
        rows: all rows of the history so far.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.rows: list[dict[str, Any]] = []
        for name in (HISTORY, TIMINGS):
            kept = [row for row in read_rows(folder / name) if row["step"] <= step]
            write_atomically(folder / name, "".join(json.dumps(row) + "\n" for row in kept).encode())
            self.rows = kept if name == HISTORY else self.rows
        self._history = (folder / HISTORY).open("a", encoding="utf-8")
        self._timings = (folder / TIMINGS).open("a", encoding="utf-8")
        self._board = _EventFile(folder / EVENTS, step)

    def add(self, row: dict[str, Any], timing: dict[str, Any]) -> None:
        """Append a row.

        Args:
            row: values of a step, with the key `step`.
            timing: times of the same step, with the key `step`.
        """
        self.rows.append(row)
        for file, values in ((self._history, row), (self._timings, timing)):
            file.write(json.dumps(values) + "\n")
            file.flush()
        values = {name: value for name, value in {**row, **timing}.items() if name != "step" and value is not None}
        self._board.add(values, row["step"])

    def close(self) -> None:
        """Flush and close all files."""
        self._history.close()
        self._timings.close()
        self._board.close()


class _EventFile:
    """A file of scalars for TensorBoard.

    TensorBoard's own writer uses a thread, which prints a traceback when the disk is full.

    Args:
        folder: its folder, which is created if it is missing.
        step: later steps in other files of the folder are ignored, because they will be written again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        # import slowly: start-up time of commands that only read
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

        self._event = Event
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter((folder / name).open("wb"))
        self._write(file_version="brain.Event:2")
        self._write(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Write the scalars of a step."""
        from torch.utils.tensorboard.summary import scalar  # see above

        for name, value in values.items():
            self._write(step=step, summary=scalar(name, value))  # type: ignore[no-untyped-call]
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()

    def _write(self, **fields: Any) -> None:
        self._writer.write(self._event(wall_time=time.time(), **fields).SerializeToString())


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Read the rows of a history, up to the first one that a crash cut short.

    Returns:
        The rows; empty if there is no such file.
    """
    rows: list[dict[str, Any]] = []
    if not file.is_file():
        return rows
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            break
        rows.append(row)
    return rows
