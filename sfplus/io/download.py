"""Files from the network: with progress, whole or not at all, checked by their SHA-256."""

from __future__ import annotations

import secrets
from pathlib import Path

from sfplus.errors import SfplusError
from sfplus.io.files import file_digest

_LOOK = 4096  # bytes at the start of a file that show whether it is a web page


def download(
    url: str, target: Path, sha256: str = "", error: type[SfplusError] = SfplusError, remedy: str = "try again later"
) -> str:
    """Download a file; a target that is there and has the right SHA-256 is kept.

    Args:
        url: where it is.
        target: where it goes, in one step, once it is whole and right; its folder is made.
        sha256: what it must have; without one any file is taken that is not a web page.
        error: what is raised.
        remedy: what to do without a network.

    Returns:
        Its SHA-256.

    Raises:
        SfplusError: of the kind asked for: there is no network, the server refuses or breaks off, what came is a web
            page, as file hosts send in place of a file, or has another SHA-256. Nothing is left behind.
    """
    import pooch
    import requests

    if sha256 and target.is_file() and file_digest(target) == sha256:
        return sha256
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        pooch.HTTPDownloader(progressbar=True, timeout=30)(url, str(part), None)
        if is_page(part):
            raise error("what came is a web page, not the file", where=url, remedy="open the address in a browser")
        found = file_digest(part)
        if sha256 and found != sha256:
            raise error("the download is damaged: its SHA-256 differs", where=url, remedy="try again later")
        part.replace(target)
    except requests.RequestException as failure:
        raise error(f"cannot be downloaded ({_reason(failure)})", where=url, remedy=remedy) from failure
    finally:
        part.unlink(missing_ok=True)
    return found


def is_page(path: Path) -> bool:
    """Whether a file is a web page, whatever its name says."""
    with path.open("rb") as file:
        start = file.read(_LOOK).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html")) or (start.startswith(b"<") and b"<html" in start)


def _reason(failure: Exception) -> str:
    response = getattr(failure, "response", None)
    return f"the server says {response.status_code}" if response is not None else type(failure).__name__
