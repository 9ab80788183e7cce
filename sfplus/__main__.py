"""The console script: runs the command line and turns errors into one line and an exit code, without a traceback."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import sys
from typing import Any

import typer

from sfplus.cli.main import app
from sfplus.errors import SfplusError, cut, first_line, one_line
from sfplus.io.crash_log import write_crash_log
from sfplus.io.messages import log_failure, show_messages
from sfplus.io.terminal import escaped_output, finish_output

_UsageError: type[Any] = typer.BadParameter.__mro__[1]  # base class of usage errors, in typer's own click
_STOPPED = 130
_DISK = {
    errno.ENOSPC: "free some space; the same command resumes",
    errno.EDQUOT: "free some space; the same command resumes",
    errno.EFBIG: "the disk or a limit of the system (ulimit -f) allows no larger file",
    errno.EROFS: "choose another --workspace or OUT",
    errno.EACCES: "change its permissions, or choose another folder",
    errno.EPERM: "change its permissions, or choose another folder",
    errno.ENOTDIR: "choose another folder",
    errno.EEXIST: "choose another folder",
    errno.EISDIR: "name a file in it",
    errno.ENOENT: "check the path",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ELOOP: "remove the links that lead to each other",
    errno.EIO: "check the disk",
    errno.ESTALE: "check the network disk; the same command resumes",
    errno.ENOTEMPTY: "check that no other program writes there",
    errno.EBUSY: "check that no other program uses it",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.ENOMEM: "close other programs, or use a smaller batch",
}


def main() -> None:
    """Run the command and exit: 0 for success, 2 for misuse, 1 for failure, 130 for Ctrl-C."""
    gc.set_threshold(50_000)  # by default, a fifth of the time to import torch is spent in search of garbage
    atexit.register(gc.freeze)  # nor is garbage searched when the memory is given back as a whole: half a second
    with escaped_output(), show_messages():
        sys.exit(finish_output(_run()))


def _run() -> int:
    """Run the command, print any error as one line, and return the exit code."""
    try:
        code = app(prog_name="sfplus", standalone_mode=False)
        if code == _STOPPED:  # Ctrl-C, as typer reports it
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except _UsageError as error:
        return _fail(_describe_misuse(error), 2)
    except SfplusError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped; the same command resumes", _STOPPED)
    except ModuleNotFoundError as error:
        return _fail(f"the package '{error.name}' is missing; install sfplus again, see: README.md")
    except MemoryError:
        return _fail("the memory is full; close other programs, or use a smaller batch")
    except SystemExit:
        raise
    except BaseException as error:  # a few libraries derive theirs from it
        if isinstance(error, OSError) and error.errno in _DISK:
            return _fail(f"{cut(str(error.filename or 'disk'))}: {error.strerror}; {_DISK[error.errno]}")
        return _fail(f"a mistake in sfplus ({type(error).__name__}: {first_line(error)})", error=error)


def _fail(message: str, code: int = 1, error: BaseException | None = None) -> int:
    """Print a message as one line, and return the exit code; `error` is one that nobody expected."""
    log = log_failure(message, error)
    if error:
        message += f"; {f'please report it with {log}' if log else write_crash_log(error)}"
    with contextlib.suppress(SfplusError):  # standard error is full or closed
        print(f"sfplus: {one_line(message)}", file=sys.stderr)
    return code


def _describe_misuse(error: Any) -> str:
    """Return what is wrong with the arguments, and the help of the command, in one line."""
    text = cut(" ".join(error.format_message().split())).rstrip(".")
    return f"{text}; see: {error.ctx.command_path if error.ctx else 'sfplus'} --help"


if __name__ == "__main__":
    main()
