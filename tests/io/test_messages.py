"""What is logged: on the terminal, in a file, and not at all in a program that imports sfplus."""

import ast
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import sfplus
from sfplus.errors import SfplusWarning, UsageError
from sfplus.io.loggers import get_logger
from sfplus.io.messages import choose_messages, is_quiet, log_failure, show_messages, shows_progress

_LOG = logging.getLogger("sfplus.somewhere")
_PACKAGE = Path(sfplus.__file__).parent


def _log_all() -> None:
    _LOG.debug("d\x1b[2J")
    _LOG.info("[bold]i[/]\nforged")
    _LOG.warning("w")
    _LOG.error("e")
    warnings.warn("for the user", SfplusWarning, stacklevel=1)
    warnings.warn("for programmers", UserWarning, stacklevel=1)
    logging.getLogger("another").warning("library")


_SHOWN = {
    "d": r"sfplus.somewhere: d\x1b[2J", "i": r"[bold]i[/]\nforged", "w": "warning: w", "e": "sfplus: e",
    "u": "warning: for the user", "l": "warning: library",
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "shown"), [({}, "iweu"), ({"verbose": True}, "diweul"), ({"quiet": True}, "e")], ids=str
)
def test_the_options_choose_what_is_shown(
    options: dict[str, bool], shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "warnoptions", [])
    with show_messages():
        choose_messages(**options)
        _log_all()
        assert is_quiet() == (not shows_progress()) == ("quiet" in options)
    assert capsys.readouterr() == ("", "".join(f"{_SHOWN[letter]}\n" for letter in shown))
    assert not shows_progress() and not is_quiet()


def test_a_process_after_the_first_shows_errors_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with show_messages():
        choose_messages(verbose=True)
        _log_all()
    assert capsys.readouterr().err == "sfplus: e\n"


def test_the_options_exclude_each_other() -> None:
    with show_messages(), pytest.raises(UsageError, match=r"^--verbose: does not go with --quiet; give one of them$"):
        choose_messages(verbose=True, quiet=True)


@pytest.mark.parametrize("options", [{}, {"quiet": True}])
def test_a_file_gets_everything_one_line_each(
    options: dict[str, bool], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "warnoptions", [])
    file = tmp_path / "new" / "run.log"
    for _ in range(2):  # appended
        with show_messages():
            choose_messages(**options, log_file=file)
            _log_all()
            assert log_failure("the end") == file
    lines = file.read_text().splitlines()
    assert len(lines) == 16 and "\x1b" not in file.read_text()
    assert "DEBUG sfplus: version " in lines[0] and lines[0].split()[-1] != "sfplus:"
    assert lines[1].endswith(r"DEBUG sfplus.somewhere: d\x1b[2J") and lines[7].endswith("ERROR sfplus: the end")
    assert lines[2].endswith(r"INFO sfplus.somewhere: [bold]i[/]\nforged")
    assert "the end" not in capsys.readouterr().err  # which __main__ prints


def test_an_unexpected_error_is_in_the_file_with_its_traceback(tmp_path: Path) -> None:
    file = tmp_path / "run.log"
    with show_messages():
        choose_messages(log_file=file)
        try:
            raise ValueError("a\n\x1b[2J")
        except ValueError as error:
            log_failure("a mistake", error)
    text = file.read_text()
    assert "sfplus: a mistake\nTraceback (most recent call last):\n" in text.replace(r"\n", "\n")
    assert "test_messages.py" in text and "\x1b" not in text
    assert log_failure("no file") is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_file_that_cannot_be_written_any_more_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with show_messages():
        choose_messages(log_file=Path("/dev/full"))
        for _ in range(2):
            _LOG.info("on")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and sum("/dev/full: cannot be written any more" in line for line in lines) == 1


def test_afterwards_logging_and_warnings_are_as_before() -> None:
    root, library = logging.getLogger(), logging.getLogger("sfplus")
    before = (list(root.handlers), root.level, library.level, warnings.showwarning, list(warnings.filters))
    with show_messages():
        choose_messages(verbose=True)
    after = (list(root.handlers), root.level, library.level, warnings.showwarning, list(warnings.filters))
    assert after == before


def test_a_program_that_configures_nothing_sees_nothing() -> None:
    program = (
        "import logging, sfplus\n"
        "from sfplus.io.messages import shows_progress\n"
        "log = logging.getLogger('sfplus.stages.train'); log.warning('x'); log.info('x')\n"
        "root = logging.getLogger()\n"
        "assert not root.handlers and root.level == logging.WARNING and not shows_progress()\n"
        "logging.basicConfig(format='%(name)s %(message)s'); log.warning('y')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "sfplus.stages.train y\n")


_MAY_PRINT = {
    "__main__.py": "the last line of a failed command",
    "app/decode_upload.py": "the answer of a child process",
    "io/terminal.py": "the last line, if standard output cannot be written",
}


def _prints(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that write to the console: calls of print, breakpoint and input, and of methods of streams."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("print", "pprint", "typer.echo", "sys.stdout.write", "sys.stderr.write", "input", "breakpoint"):
                yield node.lineno
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout.buffer", "sys.__stdout__"):
            yield node.lineno


def test_nothing_prints_but_the_command_line() -> None:
    printing = {
        file.relative_to(_PACKAGE).as_posix(): list(_prints(ast.parse(file.read_text("utf-8"))))
        for file in _PACKAGE.rglob("*.py") if file.relative_to(_PACKAGE).parts[0] != "cli"
    }  # fmt: skip
    assert {name for name, lines in printing.items() if lines} == set(_MAY_PRINT)


def test_a_logger_has_the_name_of_its_module() -> None:
    texts = {file.relative_to(_PACKAGE).as_posix(): file.read_text("utf-8") for file in _PACKAGE.rglob("*.py")}
    direct = {"__init__.py", "io/messages.py", "io/loggers.py", "weights/onnx.py"}
    assert {name for name, text in texts.items() if "getLogger(" in text} == direct
    assert all("get_logger(__name__)" in text for text in texts.values() if "import get_logger" in text)


def test_names_in_the_messages_of_the_library_forge_no_lines(caplog: pytest.LogCaptureFixture) -> None:
    get_logger("sfplus.x").warning("%s: %d faces", "p\udcff\nwarning: b\x1b[31m", 3)
    (record,) = caplog.records
    assert record.getMessage() == r"p\udcff\nwarning: b\x1b[31m: 3 faces"
    assert (record.name, record.filename) == ("sfplus.x", Path(__file__).name)
