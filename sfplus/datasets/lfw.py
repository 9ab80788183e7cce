"""Labeled Faces in the Wild: download with progress and hash check, safe unpacking."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path, PurePosixPath

from sfplus.errors import DatasetError
from sfplus.io.download import download
from sfplus.io.files import write_atomically

# The archive of the original, unaligned photos and the pairs of view 2, as scikit-learn's fetcher names them.
_ARCHIVE = (
    "https://ndownloader.figshare.com/files/5976018",
    "055f7d9c632d7370e6fb4afc7468d40f970c34a80d4c6f50ffec63f5a8d536c0",
)
_PAIRS = (
    "https://ndownloader.figshare.com/files/5976006",
    "ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592",
)


def fetch_lfw(folder: Path) -> Path:
    """Put LFW's photos and `pairs.txt` into `folder`; photos that are there already, all or some, are kept as they are.

    Raises:
        DatasetError: there is no network, or a download is damaged.
    """
    if not (folder / "pairs.txt").is_file():
        write_atomically(folder / "pairs.txt", _download(*_PAIRS, folder).read_bytes())
    interrupted = folder / ".unpacking"
    if interrupted.exists() or next(folder.glob("*/*.jpg"), None) is None:
        archive = _download(*_ARCHIVE, folder)
        interrupted.touch()
        unpack(archive, folder)
        interrupted.unlink()
    return folder


def _download(url: str, sha256: str, folder: Path) -> Path:
    path = folder / ".download" / sha256
    remedy = "without a network: get LFW elsewhere and give its folder, make lfw LFW=path"
    download(url, path, sha256, DatasetError, remedy)
    return path


def unpack(archive: Path, folder: Path) -> int:
    """Unpack the regular files of an archive, its top folder left out, each one inside `folder`.

    Links, devices and names that would leave the folder are refused: an archive that has them is not LFW.

    Returns:
        The number of files.

    Raises:
        DatasetError: the archive is damaged or holds such a member.
    """
    count = 0
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isdir():
                    continue
                parts = PurePosixPath(member.name).parts[1:]
                if not member.isfile() or not parts or ".." in parts or PurePosixPath(member.name).is_absolute():
                    raise DatasetError(
                        f"holds '{member.name}', which is no plain file inside it", where=archive, remedy="get it again"
                    )
                file = tar.extractfile(member)
                assert file is not None
                target = folder.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(target, file.read())
                count += 1
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DatasetError(
            f"is no readable archive ({error})", where=archive, remedy="delete it and try again"
        ) from error
    return count
