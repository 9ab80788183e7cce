"""The photos of a folder, and what is left out of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sfplus.errors import DatasetError
from sfplus.images.formats import PHOTO_SUFFIXES, UNREAD_SUFFIXES, VIDEO_SUFFIXES
from sfplus.io.console import quantity

CACHE, CONTACT_SHEET = ".sfplus", "contact-sheet.png"  # in an output folder
# Thumbnails and deleted files of Synology, QNAP, macOS's archives and Windows; other systems use names with a dot.
_SYSTEM_FOLDERS = frozenset({
    "@eadir", "@recycle", "#recycle", "#snapshot", "__macosx", "$recycle.bin", "system volume information",
    "lost+found", ".thumbnails", ".trash", ".trashes", ".@__thumb", ".appledouble", ".picasaoriginals",
})  # fmt: skip
_SHOWN = 4  # kinds of files in a message
_APPLE_DOUBLE = "._"  # macOS keeps attributes of x.jpg in ._x.jpg on other file systems


@dataclass
class LeftOut:
    """The photos and videos that are left out, for messages.

    Attributes:
        videos: Their paths.
        unread: Photos in formats that sfplus does not read.
        folders: Folders in a list of photos.
        hidden: The number of hidden photos and thumbnails, by the folder or the kind of name that hides them.
    """

    videos: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    hidden: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, hidden_by: str = "") -> None:
        """Count a file that is not used; a file that is neither a photo nor a video does not count."""
        suffix = _suffix(name)
        if hidden_by:
            self.hidden[hidden_by] += suffix in PHOTO_SUFFIXES
        elif suffix in VIDEO_SUFFIXES:
            self.videos.append(name)
        elif suffix in UNREAD_SUFFIXES:
            self.unread.append(name)

    def warnings(self, root: Path) -> Iterator[str]:
        """Yield a line for each kind of files that are left out; their paths are relative to `root`, or absolute."""
        hidden = +self.hidden
        if self.videos:
            videos = _left_out(len(self.videos), "video")
            yield f"{videos}, the first is {root / min(self.videos)}; extract frames as photos"
        if self.folders:
            folders = _left_out(len(self.folders), "folder")
            yield f"{folders}, the first is {root / min(self.folders)}; list the photos in them"
        if self.unread:
            kinds = _list_counts(Counter(Path(name).suffix.lower() or "no extension" for name in self.unread))
            formats = "file of a format that sfplus does not read", "files of formats that sfplus does not read"
            files = f"{_left_out(len(self.unread), *formats)} ({kinds})"
            yield f"{files}, the first is {root / min(self.unread)}; convert photos to JPEG or PNG"
        if hidden:
            files = _left_out(hidden.total(), "thumbnail or hidden photo", "thumbnails and hidden photos")
            yield f"{files} ({_list_counts(hidden)})"


def list_photos(root: Path) -> list[str]:
    """List all photos below a folder, at any depth.

    Links are followed, also out of the folder, except for a link back to a folder that contains it. A broken link with
    the suffix of a photo is listed, so that reading it records a failure. Names with a leading dot and the folders in
    which other programs keep thumbnails and deleted photos (`@eaDir`, `__MACOSX`) are skipped, and so is the contact
    sheet of `sfplus align --report` next to the crops.

    Args:
        root: the folder.

    Returns:
        POSIX-style paths relative to `root`, sorted; undecodable bytes are kept as surrogate escapes.

    Raises:
        DatasetError: If `root` or a folder below it is missing, is not a folder or cannot be listed.
    """
    is_output = (root / CACHE).is_dir()
    names = (name for name, _ in _walk(root, with_hidden=False) if _suffix(name) in PHOTO_SUFFIXES)
    return sorted(name for name in names if not (is_output and name == CONTACT_SHEET))


def has_photos(root: Path) -> bool:
    """Return whether there is a photo below a folder, as `list_photos` lists them.

    Args:
        root: the folder.

    Raises:
        DatasetError: If `root` or a folder below it is missing, is not a folder or cannot be listed.
    """
    return any(_suffix(name) in PHOTO_SUFFIXES for name, _ in _walk(root, with_hidden=False))


def list_left_out(root: Path) -> LeftOut:
    """List the videos, the photos in other formats and the hidden photos that `list_photos` leaves out.

    Args:
        root: the folder.

    Raises:
        DatasetError: If `root` or a folder below it is missing, is not a folder or cannot be listed.
    """
    left_out = LeftOut()
    for name, hidden_by in _walk(root, with_hidden=True):
        left_out.add(name, hidden_by)
    return left_out


def system_name(parts: Iterable[str]) -> str:
    """Return the part of a path by which it is a thumbnail, a deleted file or the like, or "" if there is none."""
    for part in parts:
        if part.lower() in _SYSTEM_FOLDERS or part.startswith(".Trash-"):
            return part
        if part.startswith(_APPLE_DOUBLE):
            return f"{_APPLE_DOUBLE}*"
    return ""


def _left_out(count: int, noun: str, plural: str = "") -> str:
    return f"{quantity(count, noun, plural)} {'is' if count == 1 else 'are'} left out"


def _list_counts(counts: Counter[str]) -> str:
    by_count = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    examples = [f"{name} {count}" for name, count in by_count[:_SHOWN]]
    return ", ".join([*examples, "..."] if len(counts) > _SHOWN else examples)


def _hidden_by(name: str) -> str:
    return system_name([name]) or (name if name[0] == "." else "")


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 (pathlib is slow for 500,000 files)


def _walk(root: Path, with_hidden: bool) -> Iterator[tuple[str, str]]:
    """Yield the files below a folder, each with the name of the file or folder that hides it, or ""."""
    pending: list[tuple[str, str, frozenset[tuple[int, int]]]] = [("", "", frozenset())]
    while pending:
        prefix, hidden_above, ancestors = pending.pop()
        folder = os.path.join(os.fspath(root), prefix)  # noqa: PTH118 (pathlib is slow for 500,000 files)
        try:
            status = os.stat(folder)  # noqa: PTH116
            identity = (status.st_dev, status.st_ino)
            if identity in ancestors:
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    hidden_by = hidden_above or _hidden_by(name)
                    if hidden_by and (not with_hidden or name == CACHE):
                        continue
                    if _is_folder(entry):
                        pending.append((f"{prefix}{name}/", hidden_by, ancestors | {identity}))
                    else:
                        yield prefix + name, hidden_by
        except OSError as error:
            if hidden_above:
                continue
            raise DatasetError(
                f"cannot be listed: {error.strerror}", where=folder, remedy="give a folder of photos that can be read"
            ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
