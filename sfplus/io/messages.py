"""What sfplus logs and warns about: on the terminal of the command line, and in the file of `--log-file`.

A program that imports sfplus configures logging itself; nothing here is active in it.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sfplus import __version__
from sfplus.errors import SfplusWarning, UsageError, cut, escape_controls, one_line
from sfplus.io.files import check_file

_LIBRARY = logging.getLogger("sfplus")
_WARNINGS = logging.getLogger("py.warnings")  # the name that Python gives to warnings that are logged
_FILE_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"


class _TerminalHandler(logging.Handler):
    """Prints records on standard error, in colour on a terminal; those of other libraries with `--verbose` only."""

    def filter(self, record: logging.LogRecord) -> bool:
        is_own = record.name.split(".")[0] in ("sfplus", _WARNINGS.name)
        return is_own or self.level <= logging.DEBUG

    def emit(self, record: logging.LogRecord) -> None:
        from sfplus.io.console import plain, standard_error  # rich is slow to import, and most help needs none of it

        text = plain(record.getMessage())
        if record.levelno <= logging.DEBUG:
            text = f"[dim]{plain(record.name)}: {text}[/]"
        elif record.levelno >= logging.ERROR:
            text = f"sfplus: {text}"
        elif record.levelno >= logging.WARNING:
            text = f"[yellow]warning:[/] {text}"
        standard_error().print(text)


class _FileHandler(logging.FileHandler):
    """Appends records to a file, one line each and a traceback where there is one, without control characters."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, encoding="utf-8", errors="backslashreplace")
        self.setFormatter(logging.Formatter(_FILE_FORMAT))

    def format(self, record: logging.LogRecord) -> str:
        line, *trace = super().format(record).partition("\nTraceback (most recent call last):")
        return one_line(line) + escape_controls("".join(trace))

    def handleError(self, record: logging.LogRecord) -> None:
        """Stop writing, on a full disk: the command goes on."""
        _LIBRARY.removeHandler(self)
        logging.getLogger().removeHandler(self)
        _LIBRARY.warning("%s: cannot be written any more: %s", self.baseFilename, sys.exc_info()[1])


_TERMINAL = _TerminalHandler(logging.INFO)


@contextmanager
def show_messages() -> Iterator[None]:
    """Show what is logged and warned about in the block; `choose_messages` says how much, and where else.

    Warnings of other libraries are shown only where `python -W` asks for them.
    """
    root, level = logging.getLogger(), _LIBRARY.level
    handlers = list(root.handlers)
    root.addHandler(_TERMINAL)
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            warnings.simplefilter("default", SfplusWarning)
        warnings.showwarning = _log_warning
        try:
            choose_messages()
            yield
        finally:
            for handler in [handler for handler in root.handlers if handler not in handlers]:
                root.removeHandler(handler)
                handler.close()
            _TERMINAL.setLevel(logging.INFO)
            _LIBRARY.setLevel(level)


def choose_messages(verbose: bool = False, quiet: bool = False, log_file: Path | None = None) -> None:
    """Choose which messages the command line shows.

    Args:
        verbose: show what helps to understand a problem too.
        quiet: show errors only, and no progress.
        log_file: a file to which all messages are appended, with time, process and module.

    Raises:
        UsageError: If both are set, or the file cannot be written.
    """
    if verbose and quiet:
        raise UsageError("does not go with --quiet", where="--verbose", remedy="give one of them")
    if quiet or os.environ.get("RANK", "0") != "0":  # torchrun numbers processes; the first one speaks for all
        _TERMINAL.setLevel(logging.ERROR)
    elif verbose:
        _TERMINAL.setLevel(logging.DEBUG)
    if log_file:
        check_file(log_file)
        log_file.parent.mkdir(parents=True, exist_ok=True)
        logging.getLogger().addHandler(_FileHandler(log_file))
    _LIBRARY.setLevel(logging.DEBUG if _log_files() else _TERMINAL.level)
    if log_file:
        _LIBRARY.debug("version %s: %s", __version__, shlex.join(["sfplus", *sys.argv[1:]]))


def is_quiet() -> bool:
    """Return whether the command line shows no progress, because of `--quiet`."""
    return _TERMINAL.level > logging.INFO


def shows_progress() -> bool:
    """Return whether a download may draw a bar: on the command line, and not in a program that imports sfplus."""
    return _TERMINAL in logging.getLogger().handlers and not is_quiet()


def log_failure(message: str, error: BaseException | None = None) -> Path | None:
    """Write the error that ends the command to the file of `--log-file`, and return the file; None if there is none.

    Args:
        message: the line that is printed.
        error: an unexpected error, whose traceback is written too.
    """
    files = _log_files()
    for handler in files:
        about = (type(error), error, error.__traceback__) if error else None
        record = _LIBRARY.makeRecord(_LIBRARY.name, logging.ERROR, __file__, 0, message, (), about)
        handler.handle(record)
    return Path(files[0].baseFilename) if files else None


def _log_files() -> list[_FileHandler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _FileHandler)]


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    """Log a warning; those of sfplus, which are for users, without the line of code."""
    if issubclass(category, SfplusWarning):
        _LIBRARY.warning("%s", message)
    else:
        _WARNINGS.warning("%s", cut(f"{filename}:{lineno}: {message}"))
