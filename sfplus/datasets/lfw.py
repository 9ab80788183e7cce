"""Download Labeled Faces in the Wild, with progress, checked digests and safe extraction."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from sfplus.datasets.tar_files import tar_members
from sfplus.errors import DatasetError, explain_damage
from sfplus.io.download import download
from sfplus.io.files import write_atomically
from sfplus.io.limits import check_limit

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
    count, remedy = 0, "delete it and try again"
    for member, file in tar_members(archive, remedy, gzipped=True):
        if member.isdir():
            continue
        parts = PurePosixPath(member.name).parts[1:]
        if (
            not member.isfile()
            or member.issparse()
            or not parts
            or ".." in parts
            or PurePosixPath(member.name).is_absolute()
        ):
            reason = f"contains '{member.name}', which is not a regular file in a folder"
            raise DatasetError(reason, where=archive, remedy=remedy)
        check_limit("encoded_image_bytes", member.size, archive, error=DatasetError)
        with explain_damage(archive, remedy=remedy, error=DatasetError):
            data = file.read(member.size)
        target = folder.joinpath(*parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, data)
        count += 1
    return count
