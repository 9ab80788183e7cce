"""Commands on a folder of photos: results go to OUT, the cache lies in OUT/.sfplus.

Several processes may be given the same IN and OUT, by torchrun or by hand: they share detection and alignment part by
part (see `artifacts.work_sharing`), and each leaves the complete result.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import filelock

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.context import RunContext, is_first
from sfplus.errors import UsageError
from sfplus.images import CACHE, PHOTO_SUFFIXES, VIDEO_SUFFIXES
from sfplus.io.console import Console, print_failures, quantity
from sfplus.io.files import paths_overlap, write_atomically, write_json
from sfplus.io.tables import FAILURES, read_failures
from sfplus.pipeline.distributed import process_count
from sfplus.pipeline.execute import run_steps
from sfplus.pipeline.plan import check_inputs
from sfplus.recipes.steps import Step


def list_inputs(photos: Path, out: Path) -> Path:
    """Return the folder of photos; for a list, a folder of links to them, in the folders below their common parent.

    Photos in OUT are left out: `find` lists the crops of an earlier call too. A leading dot of a name, which would hide
    the photo, becomes `_`: `.a/1.jpg` gives the crop `_a/1.jpg`.

    Args:
        photos: A folder, a text file with one photo per line, or `-` for such lines from standard input.
        out: The folder for the results.

    Raises:
        UsageError: If a line does not name a photo, two photos would give the same crop, or one of OUT and IN contains
            the other.
    """
    keep_apart(photos, out)
    if photos.is_dir() or not (str(photos) == "-" or photos.is_file()):
        return photos
    paths = _read_list(photos, out)
    root = Path(os.path.commonpath([path.parent for path in paths]))
    links: dict[str, Path] = {}
    for path in paths:
        name = "/".join("_" + part[1:] if part[0] == "." else part for part in path.relative_to(root).parts)
        if links.setdefault(name, path) != path:
            raise UsageError(f"would give the same crop as {links[name]}", where=path, remedy="list only one of them")
    digest = hashlib.sha256(repr(links).encode(errors="surrogateescape")).hexdigest()[:20]
    folder, partial = (out / CACHE / "listed" / f"{digest}{end}" for end in ("", f".{secrets.token_hex(8)}"))
    if folder.exists():
        return folder
    for name, path in links.items():
        link = partial / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    try:
        partial.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(partial)
    return folder


def _read_list(photos: Path, out: Path) -> list[Path]:
    if str(photos) == "-" and process_count() > 1:
        raise UsageError("standard input cannot be shared", where="IN", remedy="write the list to a file")
    if photos.suffix.lower() in PHOTO_SUFFIXES:
        raise UsageError("is a photo", where=photos, remedy="give its folder, or a file with one photo per line")
    text = sys.stdin.read() if str(photos) == "-" else photos.read_text("utf-8", errors="surrogateescape")
    paths = [Path(os.path.abspath(line)) for line in text.split("\n") if line.strip()]  # noqa: PTH100 (keeps links)
    paths = [path for path in paths if not path.is_relative_to(os.path.abspath(out))]  # noqa: PTH100
    if not paths:
        raise UsageError("names no photo", where=photos, remedy="give one photo per line, none of them in OUT")
    for path in paths:
        if path.suffix.lower() not in PHOTO_SUFFIXES:
            kind = "is a video, not a photo" if path.suffix.lower() in VIDEO_SUFFIXES else "is not a photo"
            raise UsageError(kind, where=path, remedy=f"remove it from {photos}")
    return paths


def _warn_about_videos(photos: Path, console: Console) -> None:
    """Warn if there are videos among the photos, which are not looked at."""
    videos = [
        Path(folder, name)
        for folder, _, names in os.walk(photos)
        for name in names
        if Path(name).suffix.lower() in VIDEO_SUFFIXES
    ]
    if videos:
        count = f"{len(videos)} videos are" if len(videos) > 1 else "1 video is"
        console.warn(f"{count} left out, the first is {min(videos)}; extract frames as photos")


@contextlib.contextmanager
def run_on_folder(photos: Path, out: Path, device: str, steps: list[Step]) -> Iterator[dict[str, Artefact]]:
    """Run steps and yield their artefacts, which no other call deletes before the block ends.

    The last call to end deletes older artefacts.
    """
    console = Console(quiet=not is_first())
    _warn_about_videos(photos, console)
    check_inputs(steps, out / CACHE)
    users = out / CACHE / "users"
    users.mkdir(parents=True, exist_ok=True)
    user = filelock.FileLock(users / f"{secrets.token_hex(8)}.lock")
    with _publish_lock(out):
        user.acquire()
    try:
        artefacts = run_steps(steps, RunContext(out / CACHE, console, device))
        yield artefacts
    finally:
        user.release()
        Path(user.lock_file).unlink(missing_ok=True)
    with _publish_lock(out):
        if not any(map(_is_held, users.glob("*.lock"))):
            _delete_older(artefacts)


def _publish_lock(out: Path) -> filelock.BaseFileLock:
    return filelock.FileLock(out / CACHE / "publish.lock")


def _is_held(lock: Path) -> bool:
    """Return whether the process that holds a lock is alive; the lock file of a killed process is deleted."""
    try:
        with filelock.FileLock(lock, timeout=0):
            lock.unlink(missing_ok=True)
    except filelock.Timeout:
        return True
    return False


def keep_apart(photos: Path, out: Path) -> None:
    """Check that the user's files are safe: OUT and IN do not overlap, and OUT is new, empty or created by sfplus.

    Raises:
        UsageError: If they overlap, or OUT contains other files.
    """
    if paths_overlap(photos, out):
        raise UsageError("OUT and IN overlap", where=out, remedy="choose an OUT beside the photos")
    if out.is_dir() and not (out / CACHE).is_dir() and any(out.iterdir()):
        raise UsageError("contains other files", where=out, remedy="choose a new or an empty folder as OUT")


def publish(files: Mapping[str, Path], out: Path) -> None:
    """Copy files into OUT, and delete the files of an earlier call that are not among them; one process at a time."""
    with _publish_lock(out):
        _publish_locked(files, out)


def _publish_locked(files: Mapping[str, Path], out: Path) -> None:
    record = out / CACHE / "published.json"
    earlier = json.loads(record.read_text("utf-8")) if record.is_file() else []
    write_json(record, sorted({*earlier, *files}))
    root = out.resolve()
    for name in files:
        if not (folder := (out / name).parent).resolve().is_relative_to(root):
            raise UsageError("is a link that leads out of OUT", where=folder, remedy="remove this link")
    for name in set(earlier) - set(files):  # before the copies: a file may have become a folder, or the reverse
        if (out / name).parent.resolve().is_relative_to(root):
            _remove(name, out)
    for name, source in files.items():
        _copy_changed(source, out / name)
    write_json(record, sorted(files))


def _remove(name: str, out: Path) -> None:
    """Delete a file, if it exists, and the folders that become empty."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
        (out / name).unlink()
    with contextlib.suppress(OSError):  # not empty
        for folder in Path(name).parents[:-1]:
            (out / folder).rmdir()


def _delete_older(artefacts: Mapping[str, Artefact]) -> None:
    """Keep only one artefact of each stage behind a folder of results."""
    for artefact in artefacts.values():
        for folder in artefact.folder.parent.glob("*/"):
            if folder != artefact.folder and folder.suffix not in (".partial", ".parts"):
                shutil.rmtree(folder, ignore_errors=True)


def print_summary(artefact: Artefact, out: Path) -> int:
    """Print the failures and a summary, and return the exit code: 1 if a photo could not be used.

    A photo without a face is not a failure.
    """
    if not is_first():  # the first process reports for all; torchrun would stop them at an exit code other than 0
        return 0
    missed, failed = read_failures(artefact.folder)
    print_failures(failed + missed, out / FAILURES)
    counts = artefact.manifest["counts"]
    summary = (
        quantity(counts["crops"], "crop")
        if "crops" in counts
        else f"{quantity(counts['faces'], 'face')} in {quantity(counts['photos'], 'photo')}"
    )
    print(f"{summary}, {quantity(len(missed), 'photo')} without a face, {len(failed)} failed: {out}")
    return 1 if failed else 0


def _copy_changed(source: Path, target: Path) -> None:
    """Copy a file atomically, unless the target has the same size and modification time."""
    stat = source.stat()
    if target.exists() and (target.stat().st_size, target.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, source.read_bytes())
    shutil.copystat(source, target)
