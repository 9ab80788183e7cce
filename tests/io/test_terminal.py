"""Text cannot control the terminal, and output that nobody reads is no error."""

import errno
import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rich.console
from rich.live import Live

from sfplus.io.console import Console, standard_error
from sfplus.io.messages import show_messages
from sfplus.io.terminal import EscapedStream, escape_redirected_output, escaped_output, terminal

_HOSTILE = "\x1b]0;title\x07\x1b[2J\r\u202e\x9b31m\udcff"
_SHOWN = r"\x1b]0;title\x07\x1b[2J\r\u202e\x9b31m\udcff"


def test_what_is_printed_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with escaped_output():
        print(f"a{_HOSTILE}\n\tb")
        sys.stderr.writelines([_HOSTILE, "\n"])
        assert sys.stdout.fileno and not sys.stdout.isatty()
    assert (sys.stdout, sys.stderr) == before
    assert tuple(capsys.readouterr()) == (f"a{_SHOWN}\n\tb\n", f"{_SHOWN}\n")


def test_text_that_the_terminal_cannot_show_is_escaped() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    EscapedStream(stream).write("Zoë\n")
    stream.flush()
    assert stream.buffer.getvalue() == b"Zo\\xeb\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize("wrap", [True, False])
def test_rich_prints_its_own_colours_and_no_others(wrap: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", EscapedStream(stream) if wrap else stream)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest cannot send surrogates between its processes
    standard_error.cache_clear()
    with show_messages():
        logging.getLogger("sfplus.x").warning(f"a\n{_HOSTILE}[bold]x[/]")
        logging.getLogger("sfplus.x").info(_HOSTILE)
        Console().print_fresh(_HOSTILE)
    standard_error.cache_clear()
    lines = stream.getvalue().split("\n")
    assert lines[0] == "\x1b[33mwarning:\x1b[0m " + rf"a\n{_SHOWN}[bold]x[/]"
    assert lines[1] == _SHOWN and lines[2].startswith(_SHOWN)


def test_what_is_printed_above_a_bar_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", EscapedStream(stream))
    console = rich.console.Console(force_terminal=True, width=200)
    with Live("bar", console=console, auto_refresh=False):
        escape_redirected_output()
        print(f"{_HOSTILE}[bold]")
        assert terminal(sys.stdout) is stream
    assert _SHOWN + "[bold]" in stream.getvalue() and "\x1b]" not in stream.getvalue()
    assert isinstance(sys.stdout, EscapedStream) and sys.stdout.rich_proxied_file is stream


def _run(code: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    program = "from sfplus.io.terminal import *\nimport sys\nwith escaped_output():\n"
    lines = "".join(f"    {line}\n" for line in code.split("; "))
    return subprocess.run([sys.executable, "-c", program + lines], stderr=subprocess.PIPE, timeout=60, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("amount", [1, 10**6])
def test_a_reader_that_stops_reading_is_no_error(amount: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = _run(f"print('x' * {amount}); sys.exit(finish_output(0))", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "sfplus", "--version"], stdout=full, stderr=subprocess.PIPE)
    reason = os.strerror(errno.ENOSPC)
    assert done.returncode == 1
    assert done.stderr.decode() == f"sfplus: the output: cannot be written: {reason}; free some space\n"


def test_closed_streams_are_no_error() -> None:
    lines = ("from sfplus.io.terminal import *", "with escaped_output():", "  print(1)", "  sys.exit(finish_output(3))")
    code = "\n".join(lines)
    command = f"exec '{sys.executable}' -c \"{code}\" >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], timeout=60).returncode == 3
