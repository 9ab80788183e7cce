"""Downloads with progress, checked by their SHA-256."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from sfplus.errors import SfplusError
from sfplus.io.files import atomic_file, file_digest
from sfplus.io.loggers import get_logger
from sfplus.io.messages import shows_progress
from sfplus.io.terminal import terminal

_log = get_logger(__name__)

_PAGE_BYTES = 4096  # at the start of a file, enough to recognise a web page


def download(
    url: str, target: Path, sha256: str = "", error: type[SfplusError] = SfplusError, remedy: str = "try again later"
) -> str:
    """Download a file, unless the target already exists and has the right SHA-256.

    Args:
        url: the address.
        target: the destination, which appears only when the download is complete and correct; its folder is created.
        sha256: the expected digest; without one, any file that is not a web page is accepted.
        error: the class of the exception.
        remedy: the remedy in the message when the download fails.

    Returns:
        The SHA-256 of the file.

    Raises:
        SfplusError: If there is no network, the server refuses or breaks off, it sends a web page, as file hosts do
            instead of a file, or the SHA-256 differs. No partial file is left.
    """
    import pooch  # optional for most commands, and slow to import
    import requests

    if sha256 and target.is_file() and file_digest(target) == sha256:
        return sha256
    _log.debug("%s: is downloaded to %s", url, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target) as part:
        try:
            with contextlib.closing(_bar()) as bar:  # a full disk leaves it open, and its line would go on
                pooch.HTTPDownloader(progressbar=bar, timeout=30)(url, str(part), None)
        except requests.RequestException as failure:
            raise error(f"cannot be downloaded ({_reason(failure)})", where=url, remedy=remedy) from failure
        if is_page(part):
            raise error("the server sent a web page, not the file", where=url, remedy="open the address in a browser")
        digest = file_digest(part)
        if sha256 and digest != sha256:
            raise error("the download is damaged: its SHA-256 differs", where=url, remedy="try again later")
    return digest


def _bar() -> Any:
    """Return a bar, which needs the terminal itself to move the cursor."""
    from tqdm.auto import tqdm  # only downloads need it

    file = terminal(sys.stderr)
    return tqdm(total=0, ncols=79, unit="B", unit_scale=True, file=file, disable=not shows_progress())


def is_page(path: Path) -> bool:
    """Return True if a file is a web page, regardless of its name."""
    with path.open("rb") as file:
        start = file.read(_PAGE_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html")) or (start.startswith(b"<") and b"<html" in start)


def _reason(failure: Exception) -> str:
    response = getattr(failure, "response", None)
    return f"the server says {response.status_code}" if response is not None else type(failure).__name__
