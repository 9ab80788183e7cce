"""The members of tar files, of which anybody may have written the headers."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from sfplus.errors import DatasetError
from sfplus.io.files import file_size
from sfplus.io.limits import check_limit


def tar_members(path: Path, remedy: str, *, gzipped: bool = False) -> Iterator[tuple[tarfile.TarInfo, BinaryIO]]:
    """Yield the members of a tar file; links, devices and sparse files are among them.

    The headers of a member may be files of their own (pax headers, long names, maps of sparse files). Python's tarfile
    reads them whole, in a time that grows with the square of their size, so they are limited.

    Args:
        path: the tar file.
        remedy: what to do about a damaged file.
        gzipped: whether it is compressed by gzip.

    Yields:
        A member, and the file, which is positioned at the contents of a regular member.

    Raises:
        DatasetError: If it is not such a tar file, is damaged, or has headers above the limit `tar_header_bytes`.
    """
    try:
        file_size(path)  # raises for a pipe, which would be waited for
        with cast(BinaryIO, gzip.open(path) if gzipped else path.open("rb")) as file:
            headers: Any = _Headers(file, path)
            with tarfile.open(fileobj=headers, mode="r:") as tar:
                while member := headers.next_of(tar):
                    tar.members = []  # type: ignore[attr-defined]  # the list of a large file would fill the memory
                    if member.size < 0 or tar.offset < member.offset_data:
                        raise tarfile.ReadError(f"it holds a file of {member.size} bytes")
                    yield member, file
    except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError, OverflowError, zlib.error) as error:
        reason = str(error)[:200] or type(error).__name__
        raise DatasetError(f"is not a readable tar file ({reason})", where=path, remedy=remedy) from error


class _Headers:
    """A file of which a limited number of bytes may be read for each member."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._count = 0
        self.seek, self.tell = file.seek, file.tell

    def next_of(self, tar: tarfile.TarFile) -> tarfile.TarInfo | None:
        """Return the next member, for whose headers the count of bytes starts again."""
        self._count = 0
        return tar.next()

    def read(self, size: int) -> bytes:
        """Read bytes of headers, up to the limit."""
        self._count += size
        check_limit("tar_header_bytes", self._count, self._path, error=DatasetError)
        return self._file.read(size)
