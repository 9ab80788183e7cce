"""The photos that a command is given: a folder, a photo, or a list of photos; and what is left out of them."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from sfplus.datasets.photo_lists import PhotoList, read_photo_list
from sfplus.errors import UsageError
from sfplus.images import CACHE, PHOTO_SUFFIXES, UNREAD_SUFFIXES, VIDEO_SUFFIXES, LeftOut, system_name
from sfplus.io.files import paths_overlap
from sfplus.io.leftovers import temporary_path
from sfplus.pipeline.distributed import process_count

Row = dict[str, str]
_MISSING = {"reason": "there is no such file", "remedy": "check this line of the list"}
_REFUSED = {
    "video": ("is a video, not a photo", "extract its frames as photos first"),
    "unread": ("has a format that sfplus does not read", "convert it to JPEG or PNG"),
}


@dataclass(frozen=True)
class PhotoInput:
    """The photos that a command is given.

    Attributes:
        path: What the user named.
        root: A folder that holds the photos; for a list, links to them.
        has_photos: Whether a path of the list leads to a photo; True for a folder, which is not looked into yet.
        failures: A row for each path of a list that does not lead to a file.
        left_out: Videos, photos in other formats, thumbnails of a list; `check_inputs` finds those of a folder.
    """

    path: Path
    root: Path
    has_photos: bool = True
    failures: list[Row] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)

    def warnings(self) -> Iterator[str]:
        """Yield a line for each kind of files that are left out of a list."""
        return self.left_out.warnings(self.root)


def list_inputs(photos: Path, out: Path) -> PhotoInput:
    """Return the photos that a command is given; for a list, links to them in the folders below their common parent.

    Photos in OUT are left out: `find` lists the crops of an earlier call too. So are thumbnails and deleted photos. A
    leading dot of a name, which would hide the photo, becomes `_`: `.a/1.jpg` gives the crop `_a/1.jpg`.

    Args:
        photos: A folder, a photo, a text file with one photo per line, or `-` for such lines from standard input.
        out: The folder for the results.

    Raises:
        UsageError: If the list names no photo, two photos would give the same crop, or one of OUT and IN contains the
            other.
    """
    keep_apart(photos, out)
    if photos.is_dir():
        return PhotoInput(photos, photos)
    if str(photos) != "-" and not photos.exists():
        return PhotoInput(photos, photos)  # which `check_inputs` reports
    listed = _read_list(photos)
    existing = [path for path in dict.fromkeys(listed.paths) if not _is_below(path, out)]
    missing = [name for name in dict.fromkeys(listed.missing) if not _is_below(name, out)]
    if not existing and 2 * sum(bool(_kind(name)) for name in missing) <= len(missing):  # any other text
        named = f", its first line is {missing[0]!r}" if missing else ""
        raise UsageError(f"names no photo{named}", where=photos, remedy="give one photo per line, none of them in OUT")
    failures = [{"photo": name, "stage": "list", **_MISSING} for name in missing]
    paths, left_out = [], LeftOut()
    for path, name in zip(existing, _below_common_parent(existing), strict=True):
        hidden_by, kind = system_name(PurePath(name).parts), _kind(path.name)
        if path.is_dir():
            left_out.folders.append(str(path))
        elif hidden_by or kind == "video":
            left_out.add(str(path), hidden_by)
        elif kind == "photo":
            paths.append(path)
        else:
            left_out.unread.append(str(path))
    source = PhotoInput(photos, _link(paths, out) if paths else photos, bool(paths), failures, left_out)
    if not paths and not failures:
        reasons = "; ".join(source.warnings())
        raise UsageError(f"names no photo: {reasons}", where=photos, remedy="give one photo per line")
    return source


def keep_apart(photos: Path, out: Path) -> None:
    """Check that the user's files are safe: OUT and IN do not overlap, and OUT is new, empty or created by sfplus.

    Raises:
        UsageError: If they overlap, or OUT contains other files.
    """
    if paths_overlap(photos, out):
        raise UsageError("OUT and IN overlap", where=out, remedy="choose an OUT beside the photos")
    if out.is_dir() and not (out / CACHE).is_dir() and any(out.iterdir()):
        raise UsageError("contains other files", where=out, remedy="choose a new or an empty folder as OUT")


def _read_list(photos: Path) -> PhotoList:
    kind = _kind(photos.name)
    if kind == "photo":
        return PhotoList([Path(os.path.abspath(photos))], [])  # noqa: PTH100 (keeps links)
    if kind:
        reason, remedy = _REFUSED[kind]
        raise UsageError(reason, where=photos, remedy=remedy)
    is_stream = str(photos) == "-" or photos.is_fifo()
    if is_stream and process_count() > 1:
        raise UsageError("standard input and pipes cannot be shared", where=photos, remedy="write the list to a file")
    if not is_stream and not photos.is_file():
        raise UsageError("is not a regular file", where=photos, remedy="give a folder, a photo or a list of photos")
    data = sys.stdin.buffer.read() if str(photos) == "-" else photos.read_bytes()
    return read_photo_list(data, Path() if is_stream else photos.parent)


def _is_below(path: Path | str, folder: Path) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))  # noqa: PTH100 (keeps links)


def _kind(name: str) -> str:
    suffix = PurePath(name).suffix.lower()
    kinds = {"photo": PHOTO_SUFFIXES, "video": VIDEO_SUFFIXES, "unread": UNREAD_SUFFIXES}
    return next((kind for kind, suffixes in kinds.items() if suffix in suffixes), "")


def _below_common_parent(paths: list[Path]) -> list[str]:
    if not paths:
        return []
    root = Path(os.path.commonpath([path.parent for path in paths]))
    return [path.relative_to(root).as_posix() for path in paths]


def _link(paths: list[Path], out: Path) -> Path:
    """Return a folder of links to photos."""
    links: dict[str, Path] = {}
    for path, below in zip(paths, _below_common_parent(paths), strict=True):
        name = "/".join("_" + part[1:] if part[0] == "." else part for part in below.split("/"))
        if links.setdefault(name, path) != path:
            raise UsageError(f"would give the same crop as {links[name]}", where=path, remedy="list only one of them")
    digest = hashlib.sha256(repr(links).encode(errors="surrogateescape")).hexdigest()[:20]
    folder = out / CACHE / "listed" / digest
    if folder.exists():
        return folder
    partial = temporary_path(folder)
    for name, path in links.items():
        link = partial / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    try:
        partial.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(partial)
    return folder
