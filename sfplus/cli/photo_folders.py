"""Commands on a folder of photos: results go to OUT, the cache lies in OUT/.sfplus.

Several processes may be given the same IN and OUT, by torchrun or by hand: they share detection and alignment part by
part (see `artifacts.work_sharing`), and each leaves the complete result.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import filelock

from sfplus.artifacts.artefact import MANIFEST, Artefact
from sfplus.artifacts.context import RunContext, is_first
from sfplus.artifacts.layout import FACE_COLUMNS, FACES, FEATURES, PHOTOS
from sfplus.cli.photo_inputs import PhotoInput
from sfplus.errors import ArtefactError, NoUsablePhotoError, UsageError, warn_user
from sfplus.images import CACHE
from sfplus.io.console import Console, log_failures, quantity
from sfplus.io.disk import flush_all
from sfplus.io.files import remove_folder, write_atomically, write_json
from sfplus.io.json_files import RelativeName, read_json
from sfplus.io.locks import file_lock
from sfplus.io.loggers import get_logger
from sfplus.io.memory import return_photo_memory
from sfplus.io.tables import FAILURES, Failure, read_failures, read_json_lines, read_parquet, write_json_lines
from sfplus.pipeline.execute import run_steps
from sfplus.pipeline.plan import check_inputs
from sfplus.recipes.steps import Step

_log = get_logger(__name__)

FOUND_CSV = "found.csv"  # of the command `find`
_RECORD = f"{CACHE}/published.json"


@contextlib.contextmanager
def run_on_folder(
    photos: PhotoInput, out: Path, device: str, steps: list[Step], command: str
) -> Iterator[dict[str, Artefact]]:
    """Run steps and yield their artefacts, which no other call deletes before the block ends.

    The last call to end deletes older artefacts. Where no photo can be used, OUT gets the list of failures alone.

    Args:
        photos: The photos that the steps take.
        out: The folder for the results.
        device: The device to run on.
        steps: The steps; none where no listed path leads to a photo.
        command: The name of the command: `align`, `detect`, `embed`, `group` or `find`.

    Raises:
        UsageError: If OUT holds the results of another command, which would be deleted.
        NoUsablePhotoError: If no photo can be used; the first reasons have been printed.
    """
    if (earlier := _command_of(out)) not in ("", command):
        remedy = "choose another OUT, or delete this one"
        raise UsageError(f"holds the results of sfplus {earlier}", where=out, remedy=remedy)
    console = Console(quiet=not is_first())
    for text in photos.warnings():
        _log.warning("%s", text)
    if photos.has_photos:
        check_inputs(steps, out / CACHE)
    users = out / CACHE / "users"
    users.mkdir(parents=True, exist_ok=True)
    user = file_lock(users / f"{secrets.token_hex(8)}.lock")
    with _publish_lock(out):
        user.acquire()
    try:
        if not photos.has_photos:
            raise NoUsablePhotoError("no path in it leads to a photo")
        return_photo_memory()
        artefacts = run_steps(steps, RunContext(out / CACHE, console, device))
        yield artefacts
    except NoUsablePhotoError as error:
        publish({FAILURES: _merge_failures(error.failures, photos, out)}, out)
        if is_first():
            log_failures([row for rows in reversed(read_failures(out)) for row in rows], out / FAILURES)
        raise NoUsablePhotoError(error.reason, where=photos.path, remedy=f"see {out / FAILURES}") from error
    finally:
        user.release()
        Path(user.lock_file).unlink(missing_ok=True)
    with _publish_lock(out):
        if not any(map(_is_held, users.glob("*.lock"))):
            _delete_older(artefacts)


def failures_file(artefact: Artefact, photos: PhotoInput, out: Path) -> Path:
    """Return the list of failures of an artefact, together with the paths of a list that lead to no file."""
    file = artefact.folder / FAILURES
    return _merge_failures(read_json_lines(file, Failure), photos, out) if photos.failures else file


def _merge_failures(rows: Sequence[Mapping[str, Any]], photos: PhotoInput, out: Path) -> Path:
    file = out / CACHE / FAILURES
    write_json_lines(file, sorted([*rows, *photos.failures], key=lambda row: str(row["photo"])))
    return file


def _publish_lock(out: Path) -> filelock.BaseFileLock:
    return file_lock(out / CACHE / "publish.lock")


def _is_held(lock: Path) -> bool:
    """Return whether the process that holds a lock is alive; the lock file of a killed process is deleted."""
    try:
        with file_lock(lock, timeout=0):
            lock.unlink(missing_ok=True)
    except filelock.Timeout:
        return True
    return False


def publish(files: Mapping[str, Path], out: Path) -> None:
    """Copy files into OUT, and delete the files of an earlier call that are not among them; one process at a time."""
    with _publish_lock(out):
        _publish_locked(files, out)


def _publish_locked(files: Mapping[str, Path], out: Path) -> None:
    record, earlier = out / _RECORD, _published(out)
    write_json(record, sorted({*earlier, *files}))
    root = out.resolve()
    for folder in {(out / name).parent: None for name in files}:
        if not folder.resolve().is_relative_to(root):
            raise UsageError("is a link that leads out of OUT", where=folder, remedy="remove this link")
    for name in set(earlier) - set(files):  # before the copies: a file may have become a folder, or the reverse
        if (out / name).parent.resolve().is_relative_to(root):
            _remove(name, out)
    copied = [(source, out / name) for name, source in files.items() if not _is_copy(source, out / name)]
    for folder in {target.parent for _, target in copied}:
        folder.mkdir(parents=True, exist_ok=True)
    for source, target in copied:
        write_atomically(target, source.read_bytes(), sync=False)
    flush_all(target for _, target in copied)
    for source, target in copied:
        shutil.copystat(source, target)  # after the flush: `_is_copy` trusts these times also after a power cut
    write_json(record, sorted(files))


def _published(out: Path) -> list[str]:
    """Return the files that an earlier call copied into OUT; none, with a warning, if the record is damaged."""
    record = out / _RECORD
    if not record.exists():
        return []
    try:
        names = read_json(record, list[RelativeName], remedy="files of earlier runs stay in OUT")
        return [name for name in names if PurePosixPath(name).parts[:1] != (CACHE,)]
    except ArtefactError as error:
        warn_user(str(error))
        return []


def _command_of(out: Path) -> str:
    """Return the command whose results are in OUT; "" if there are none."""
    names = set(_published(out))
    if (out / CACHE / "group").is_dir():
        return "group"
    if (out / FOUND_CSV).is_file():
        return "find"
    if FEATURES in names:
        return "embed"
    if PHOTOS in names:
        return "detect"
    return "align" if FACES in names else ""


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
                (folder / MANIFEST).unlink(missing_ok=True)  # a process that is killed now leaves half of it
                remove_folder(folder)


def print_summary(artefact: Artefact, out: Path, faces: Path | None = None, remedy: str = "") -> int:
    """Print the failures in OUT and a summary, and return the exit code: 1 if a photo could not be used.

    A photo without a face is not a failure.

    Args:
        artefact: The last artefact.
        out: The folder with the published results.
        faces: The folder of the detect stage, if faces that were not chosen are to be mentioned.
        remedy: How to get these faces.
    """
    if not is_first():  # the first process reports for all; torchrun would stop them at an exit code other than 0
        return 0
    missed, failed = read_failures(out)
    log_failures(failed + missed, out / FAILURES)
    counts = artefact.manifest["counts"]
    summary = (
        quantity(counts["crops"], "crop")
        if "crops" in counts
        else f"{quantity(counts['faces'], 'face')} in {quantity(counts['photos'], 'photo')}"
    )
    print(f"{summary}, {quantity(len(missed), 'photo')} without a face, {len(failed)} failed: {out}")
    if faces and (text := _describe_other_faces(faces)):
        _log.info("%s; %s", text, remedy)
    return 1 if failed else 0


def _describe_other_faces(faces: Path) -> str:
    table = read_parquet(faces / FACES, FACE_COLUMNS)
    unchosen = [photo for photo, chosen in zip(table["photo"], table["chosen"], strict=True) if not chosen]
    if not unchosen:
        return ""
    verb = "was" if len(unchosen) == 1 else "were"
    return f"{quantity(len(unchosen), 'more face')} in {quantity(len(set(unchosen)), 'photo')} {verb} left out"


def _is_copy(source: Path, target: Path) -> bool:
    """Return whether the target has the size and the modification time of the source."""
    stat = source.stat()
    return target.exists() and (target.stat().st_size, target.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
