"""Standard output and standard error of the command line, on which text cannot control the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from rich.file_proxy import FileProxy

from sfplus.errors import SfplusError, escape_controls


class EscapedStream:
    """A text stream whose control characters are shown escaped: a file name cannot colour, move or forge a line.

    rich, which prints colours and bars, writes to `rich_proxied_file`, the stream behind; `Console` escapes its text.

    Args:
        stream: standard output or standard error.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.rich_proxied_file: TextIO = terminal(stream)

    def write(self, text: str) -> int:
        """Write text with its control characters escaped.

        Raises:
            SystemExit: If the reader has closed the pipe, as `head` does, which is no error.
            SfplusError: If the stream cannot be written, on a full disk.
        """
        encoding = self._stream.encoding or "utf-8"
        with self._closed_pipe():
            self._stream.write(escape_controls(text).encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each text, as `write` does."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream; raises as `write` does."""
        with self._closed_pipe():
            self._stream.flush()

    def discard(self) -> None:
        """Write what is left, and what follows, to nowhere: Python's own flush at the end cannot fail then."""
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.rich_proxied_file.fileno())

    @contextlib.contextmanager
    def _closed_pipe(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self.discard()
            raise SystemExit(1) from None
        except OSError as error:
            self.discard()
            reason = f"cannot be written: {error.strerror}"
            raise SfplusError(reason, where="the output", remedy="free some space") from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def terminal(stream: Any) -> TextIO:
    """Return the stream behind those of this class and of rich, for bars, whose text must be escaped before."""
    while hasattr(stream, "rich_proxied_file"):
        stream = stream.rich_proxied_file
    return cast(TextIO, stream)


def escape_redirected_output() -> None:
    """Escape what is printed while a bar of rich is on the terminal, which prints it above the bar."""
    if isinstance(sys.stdout, FileProxy):
        sys.stdout = EscapedStream(sys.stdout)
    if isinstance(sys.stderr, FileProxy):
        sys.stderr = EscapedStream(sys.stderr)


@contextlib.contextmanager
def escaped_output() -> Iterator[None]:
    """Escape the control characters of all text that is printed in the block."""
    streams = sys.stdout, sys.stderr
    escaped = [stream and EscapedStream(stream) for stream in streams]  # None if it is closed
    sys.stdout, sys.stderr = escaped
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


def finish_output(code: int) -> int:
    """Flush what was printed, and return the exit code: `code`, or 1 if it cannot be written, on a full disk."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream:  # None: it was closed by the shell
                stream.flush()
        except SfplusError as error:
            print(f"sfplus: {error}", file=sys.stderr)
            code = code or error.exit_code
    return code
