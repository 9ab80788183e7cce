"""The console script: runs the command line and turns errors into one line and an exit code, without a traceback."""

from __future__ import annotations

import errno
import sys
import warnings
from pathlib import Path
from typing import Any

import typer

from sfplus.cli.main import app
from sfplus.errors import SfplusError, one_line

_UsageError: type[Any] = typer.BadParameter.__mro__[1]  # base class of usage errors, in typer's own click
_STOPPED = 130
_FOLDER = str(Path(__file__).parent)
_DISK = {
    errno.ENOSPC: "free some space; the same command resumes",
    errno.EDQUOT: "free some space; the same command resumes",
    errno.EROFS: "choose another --workspace or OUT",
    errno.EACCES: "change its permissions, or choose another folder",
    errno.EPERM: "change its permissions, or choose another folder",
    errno.ENOTDIR: "choose another folder",
    errno.EEXIST: "choose another folder",
    errno.EISDIR: "name a file in it",
    errno.ENOENT: "check the path",
    errno.ENAMETOOLONG: "use a shorter name",
}


def main() -> None:
    """Run the command and exit: 0 for success, 2 for misuse, 1 for failure, 130 for Ctrl-C."""
    warnings.formatwarning = _format_warning
    for package in ("PIL", "pillow_heif"):  # what matters about a photo is a failure with a reason
        warnings.filterwarnings("ignore", module=rf"{package}\b")
    try:
        code = app(standalone_mode=False)
        if code == _STOPPED:  # Ctrl-C, as typer reports it
            raise KeyboardInterrupt
        sys.exit(code)
    except _UsageError as error:
        error.show()
        sys.exit(2)
    except SfplusError as error:
        print(f"sfplus: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("sfplus: stopped; the same command resumes", file=sys.stderr)
        sys.exit(_STOPPED)
    except ModuleNotFoundError as error:
        print(f"sfplus: the package '{error.name}' is missing; install sfplus again, see: README.md", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        print(f"sfplus: {error.filename or 'disk'}: {error.strerror}; {_DISK[error.errno]}", file=sys.stderr)
        sys.exit(1)


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return a warning as one line; those of sfplus, which are for users, without the line of code."""
    place = "sfplus: warning" if issubclass(category, UserWarning) and _FOLDER in filename else f"{filename}:{lineno}"
    return f"{place}: {one_line(message)}\n"


if __name__ == "__main__":
    main()
