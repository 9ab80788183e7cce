"""A file with the traceback of an unexpected error, for a report of the mistake."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import sys
import time
import traceback

from sfplus import __version__
from sfplus.errors import first_line
from sfplus.io.files import write_atomically
from sfplus.io.resources import user_folder

_KEPT = 20  # files


def write_crash_log(error: BaseException) -> str:
    """Write the traceback of an error to a new file in the user's folder, which keeps the newest 20 of them.

    Args:
        error: an exception that was raised.

    Returns:
        What the user should do: the file to report, or why there is none.
    """
    try:
        folder = user_folder() / "errors"
        folder.mkdir(parents=True, exist_ok=True)
        for old in sorted(folder.glob("*.log"))[: -_KEPT + 1]:
            with contextlib.suppress(OSError):
                old.unlink()
        file = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
        write_atomically(file, _describe(error).encode(errors="backslashreplace"))
    except Exception as fault:  # a full disk, no home: there is nothing behind this net
        return f"its traceback cannot be written ({first_line(fault)}); set SFPLUS_HOME to a folder that can"
    return f"please report it with {file}"


def _describe(error: BaseException) -> str:
    versions = f"sfplus {__version__}, Python {platform.python_version()}, {platform.platform()}"
    command = shlex.join(["sfplus", *sys.argv[1:]])
    return "\n".join([versions, command, "", *traceback.format_exception(error)])
