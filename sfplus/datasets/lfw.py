"""Download Labeled Faces in the Wild, with progress, checked digests and safe extraction."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path, PurePosixPath

from sfplus.errors import DatasetError
from sfplus.io.download import download
from sfplus.io.files import write_atomically

# The archive of the original, unaligned photos and the pairs of view 2 (scikit-learn, datasets/_lfw.py).
_ARCHIVE = (
    "https://ndownloader.figshare.com/files/5976018",
    "055f7d9c632d7370e6fb4afc7468d40f970c34a80d4c6f50ffec63f5a8d536c0",
)
_PAIRS = (
    "https://ndownloader.figshare.com/files/5976006",
    "ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592",
)


def fetch_lfw(folder: Path) -> Path:
    """Download the photos and `pairs.txt` of LFW into `folder`, and return it; existing photos are kept.

    Raises:
        DatasetError: If the network is unavailable or a download is damaged.
    """
    if not (folder / "pairs.txt").is_file():
        write_atomically(folder / "pairs.txt", _download(*_PAIRS, folder).read_bytes())
    interrupted = folder / ".unpacking"
    if interrupted.exists() or next(folder.glob("*/*.jpg"), None) is None:
        archive = _download(*_ARCHIVE, folder)
        interrupted.touch()
        extract(archive, folder)
        interrupted.unlink()
    return folder


def _download(url: str, sha256: str, folder: Path) -> Path:
    path = folder / ".download" / sha256
    remedy = "without a network, get LFW elsewhere and give its folder: make lfw LFW=path"
    download(url, path, sha256, DatasetError, remedy)
    return path


def extract(archive: Path, folder: Path) -> int:
    """Extract the regular files of an archive into `folder`, without the top folder of the archive.

    Links, devices and names that point outside the folder are refused, since the archive of LFW has none.

    Returns:
        The number of files.

    Raises:
        DatasetError: If the archive is damaged or contains such a member.
    """
    count = 0
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isdir():
                    continue
                parts = PurePosixPath(member.name).parts[1:]
                if not member.isfile() or not parts or ".." in parts or PurePosixPath(member.name).is_absolute():
                    reason = f"contains '{member.name}', which is not a regular file in a folder"
                    raise DatasetError(reason, where=archive, remedy="download it again")
                file = tar.extractfile(member)
                assert file is not None
                target = folder.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(target, file.read())
                count += 1
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        reason = f"is not a readable archive ({error})"
        raise DatasetError(reason, where=archive, remedy="delete it and try again") from error
    return count
