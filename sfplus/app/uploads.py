"""Uploaded photos: decoded within limits of bytes, pixels and time, and never written to the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

import numpy as np

from sfplus.errors import PhotoError
from sfplus.images import Pixels, check_suffix

MAX_BYTES = 40 * 2**20
MAX_PIXELS = 64_000_000
MAX_SECONDS = 10
MAX_SIDE = 4096  # pixels; larger photos, such as those of 48 megapixels, are scaled down before detection

_CODE = str(Path(__file__).parents[2])  # where `sfplus` is, also if it is not installed


class UploadReader:
    """Decodes photos, each in a process of its own that is stopped when it takes too long or fails.

    A thread cannot be stopped, and a small file of any format can take minutes: a GIF with many comments, a JPEG with
    many scans. The process for the next photo is started in advance; leaving the context stops all.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = _start_process()
        self._running = {self._next}

    def read(self, data: bytes, name: str) -> Pixels:
        """Return the pixels of a photo, scaled down to at most `MAX_SIDE`; several threads may call this.

        Args:
            data: the contents of the file.
            name: the name of the file, for its extension and for messages.

        Returns:
            uint8 RGB (H, W, 3).

        Raises:
            PhotoError: If the data is not a photo, too large, or takes too long.
        """
        where = Path(name.replace("\\", "/")).name or "photo"
        check_suffix(Path(where))
        if len(data) > MAX_BYTES:
            raise PhotoError(f"has more than {MAX_BYTES >> 20} MB", where=where, remedy="make it smaller")
        with self._lock:
            process, self._next = self._next, _start_process()
            self._running.add(self._next)
        try:
            output, _ = process.communicate(data, MAX_SECONDS)
        except subprocess.TimeoutExpired as error:
            reason = f"takes more than {MAX_SECONDS} s to decode"
            raise PhotoError(reason, where=where, remedy="save it again as JPEG") from error
        finally:
            _stop_process(process)
            with self._lock:
                self._running.discard(process)
        line, _, pixels = output.partition(b"\n")
        answer: dict[str, Any] = (
            json.loads(line) if line else {"reason": "cannot be decoded", "remedy": "save it again as JPEG"}
        )
        if "shape" not in answer:
            raise PhotoError(answer["reason"], where=where, remedy=answer["remedy"])
        return np.frombuffer(pixels, np.uint8).reshape(answer["shape"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            for process in self._running:
                process.kill()  # ends the call that waits for it
            _stop_process(self._next)


def _start_process() -> subprocess.Popen[bytes]:
    limits = map(str, (MAX_PIXELS, MAX_SIDE, MAX_SECONDS))
    # -P: a folder of the user's that holds a `json.py` must not become part of the program.
    command = [sys.executable, "-P", "-m", "sfplus.app.decode_upload", *limits]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([_CODE, os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    }
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, start_new_session=True, env=environment
    )


def _stop_process(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()
