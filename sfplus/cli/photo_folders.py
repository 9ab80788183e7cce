"""Commands on a folder of photos: detect, align, embed. Results go to OUT; their cache lies in OUT/.sfplus.

Several processes may be given the same IN and OUT, by torchrun or by hand: they share detection and alignment part by
part (see stages/parts.py), and each leaves the whole result.
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
from typing import Any

import filelock

from sfplus.artifacts.cache import Artefact
from sfplus.artifacts.context import Run, is_first
from sfplus.errors import UsageError
from sfplus.images import CACHE, CONTACT_SHEET, PHOTO_SUFFIXES, VIDEO_SUFFIXES, encode_image
from sfplus.io.console import Console, print_failures
from sfplus.io.files import paths_overlap, write_atomically
from sfplus.io.resources import DEFAULT_MODEL
from sfplus.io.tables import FAILURES, read_failures, read_parquet
from sfplus.pipeline import plan as chain
from sfplus.pipeline.distributed import own_device, processes
from sfplus.pipeline.plan import From, Input, Model, Photos, Step
from sfplus.recipes.load import Recipe
from sfplus.reports import contact_sheet as sheet
from sfplus.stages import align, detect, embed


def detect_folder(photos: Path, out: Path, device: str, settings: Mapping[str, Any] | None = None) -> int:
    """Faces of a folder or list of photos as tables in `out`; returns the exit code."""
    recipe = Recipe.model_validate({"detect": settings or {}})
    photos = _listed(photos, out)
    with _run(photos, out, device, chain.crop_steps(Photos(photos), recipe, "photos")[:1]) as done:
        folder = done["detect/photos"].folder
        _publish({name: folder / name for name in (detect.FACES, detect.PHOTOS, FAILURES)}, out)
        return _close(done["detect/photos"], out)


def align_folder(
    photos: Path,
    out: Path,
    device: str,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    report: bool = False,
    workers: int = 0,
) -> int:
    """Crops of a folder or list of photos in the same tree under `out`, with the tables; returns the exit code.

    Args:
        photos: a folder, a text file with a photo a line, or `-` for such lines from standard input.
        out: where the crops go.
        device: as everywhere.
        settings: keys `detect` and `align`, as in a recipe.
        report: draw a contact sheet, too.
        workers: threads; 0 for as many as torch takes.
    """
    recipe = Recipe.model_validate(settings or {})
    photos = _listed(photos, out)
    if workers:
        import torch

        torch.set_num_threads(workers)
    with _run(photos, out, device, chain.crop_steps(Photos(photos), recipe, "photos")) as done:
        folder, faces = done["align/photos"].folder, done["detect/photos"].folder
        crops = {name: folder / align.CROPS / name for name in read_parquet(folder / align.TABLE)["crop"]}
        files = crops | {detect.FACES: faces / detect.FACES, FAILURES: folder / FAILURES}
        if report:
            files[CONTACT_SHEET] = out / CACHE / CONTACT_SHEET
            write_atomically(files[CONTACT_SHEET], encode_image(sheet.draw(photos, faces, folder), ".png"))
        _publish(files, out)
        return _close(done["align/photos"], out)


def _listed(photos: Path, out: Path) -> Path:
    """The folder of photos; for a list, a folder of links to them, in the tree that they have below what they share.

    What lies in OUT is left out: `find` lists the crops of an earlier call too. A leading dot of a name, which would
    hide it, is `_` there: `.a/1.jpg` gives the crop `_a/1.jpg`.

    Raises:
        UsageError: a line names no photo, two photos would give the same crop, or OUT and IN do not lie apart.
    """
    _keep_apart(photos, out)
    if photos.is_dir() or not (str(photos) == "-" or photos.is_file()):
        return photos
    if str(photos) == "-" and processes() > 1:
        raise UsageError("standard input cannot be shared", where="IN", remedy="write the list to a file")
    if photos.suffix.lower() in PHOTO_SUFFIXES:
        raise UsageError("is a photo", where=photos, remedy="give its folder, or a file with a photo a line")
    text = sys.stdin.read() if str(photos) == "-" else photos.read_text("utf-8", errors="surrogateescape")
    paths = [Path(os.path.abspath(line)) for line in text.split("\n") if line.strip()]  # noqa: PTH100 (keeps links)
    paths = [path for path in paths if not path.is_relative_to(os.path.abspath(out))]  # noqa: PTH100
    if not paths:
        raise UsageError("names no photo", where=photos, remedy="give it a photo a line, none of them in OUT")
    for path in paths:
        if path.suffix.lower() not in PHOTO_SUFFIXES:
            kind = "is a video, not a photo" if path.suffix.lower() in VIDEO_SUFFIXES else "is not a photo"
            raise UsageError(kind, where=path, remedy=f"take it out of {photos}")
    root = Path(os.path.commonpath([path.parent for path in paths]))
    named: dict[str, Path] = {}
    for path in paths:
        name = "/".join("_" + part[1:] if part[0] == "." else part for part in path.relative_to(root).parts)
        if named.setdefault(name, path) != path:
            raise UsageError(f"would give the same crop as {named[name]}", where=path, remedy="list one of them only")
    digest = hashlib.sha256(repr(named).encode(errors="surrogateescape")).hexdigest()[:20]
    links, partial = (out / CACHE / "listed" / f"{digest}{end}" for end in ("", f".{secrets.token_hex(8)}"))
    for name, path in named.items() if not links.exists() else ():
        link = partial / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    if partial.exists():
        try:
            partial.rename(links)
        except OSError:  # another process was first
            shutil.rmtree(partial)
    return links


def _notice_videos(photos: Path, console: Console) -> None:
    """Say it when there are videos among the photos: nobody should think that they were looked at."""
    videos = [
        Path(folder, name)
        for folder, _, names in os.walk(photos)
        for name in names
        if Path(name).suffix.lower() in VIDEO_SUFFIXES
    ]
    if videos:
        console.warn(f"{len(videos)} videos are left out, the first is {min(videos)}; extract their frames as photos")


def embed_folder(photos: Path, out: Path, model: str, device: str, crops: bool = False, dtype: str = "float32") -> int:
    """Features of a folder of photos, or of aligned crops, with their index, in `out`; returns the exit code."""
    _keep_apart(photos, out)
    settings = embed.EmbedSettings.model_validate({"dtype": dtype})
    inputs: dict[str, Input] = {"model": Model(model or DEFAULT_MODEL)}
    inputs["crops"] = Photos(photos) if crops else From("align/photos")
    steps = [] if crops else chain.crop_steps(Photos(photos), Recipe(), "photos")
    with _run(photos, out, device, [*steps, Step("embed", embed.STAGE, settings, inputs)]) as done:
        tables = {name: done["embed"].folder / name for name in (embed.FEATURES, embed.INDEX)}
        last = done["embed" if crops else "align/photos"]
        _publish(tables | {FAILURES: last.folder / FAILURES}, out)
        return _close(last, out)


@contextlib.contextmanager
def _run(photos: Path, out: Path, device: str, steps: list[Step]) -> Iterator[dict[str, Artefact]]:
    """The artefacts of the steps, which no other call drops before the block ends; the last to end drops the older."""
    console = Console(quiet=not is_first())
    _notice_videos(photos, console)
    chain.check_inputs(steps, out / CACHE)
    users = out / CACHE / "users"
    users.mkdir(parents=True, exist_ok=True)
    own = filelock.FileLock(users / f"{secrets.token_hex(8)}.lock")
    with _only_one(out):
        own.acquire()
    try:
        done = chain.run_steps(steps, Run(out / CACHE, console, own_device(device)))
        yield done
    finally:
        own.release()
        Path(own.lock_file).unlink(missing_ok=True)
    with _only_one(out):
        if not any(map(_is_held, users.glob("*.lock"))):
            _drop_older(done)


def _only_one(out: Path) -> filelock.BaseFileLock:
    return filelock.FileLock(out / CACHE / "publish.lock")


def _is_held(lock: Path) -> bool:
    """Whether its process lives; the file of one that was killed is deleted."""
    try:
        with filelock.FileLock(lock, timeout=0):
            lock.unlink(missing_ok=True)
    except filelock.Timeout:
        return True
    return False


def _keep_apart(photos: Path, out: Path) -> None:
    """The user's files are never written to: OUT and IN lie apart, and OUT is new, empty or made by sfplus."""
    if paths_overlap(photos, out):
        raise UsageError("OUT and IN lie in one another", where=out, remedy="choose an OUT beside the photos")
    if out.is_dir() and not (out / CACHE).is_dir() and any(out.iterdir()):
        raise UsageError("holds other files", where=out, remedy="choose a new or an empty folder as OUT")


def _publish(files: Mapping[str, Path], out: Path) -> None:
    """Copy files into OUT by name, and delete those of an earlier call that are not among them; one process does it."""
    with _only_one(out):
        _publish_alone(files, out)


def _publish_alone(files: Mapping[str, Path], out: Path) -> None:
    record = out / CACHE / "published.json"
    earlier = json.loads(record.read_text("utf-8")) if record.is_file() else []
    write_atomically(record, json.dumps(sorted({*earlier, *files})).encode())
    root = out.resolve()
    for name in files:
        if not (folder := (out / name).parent).resolve().is_relative_to(root):
            raise UsageError("leads out of OUT", where=folder, remedy="remove this link")
    for name in set(earlier) - set(files):  # before the copies: what was a file may now be a folder, or the reverse
        if (out / name).parent.resolve().is_relative_to(root):
            _remove(name, out)
    for name, source in files.items():
        _copy_changed(source, out / name)
    write_atomically(record, json.dumps(sorted(files)).encode())


def _remove(name: str, out: Path) -> None:
    """Delete a file, where it is there, and the folders that it leaves empty."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
        (out / name).unlink()
    with contextlib.suppress(OSError):  # not empty
        for folder in Path(name).parents[:-1]:
            (out / folder).rmdir()


def _drop_older(done: Mapping[str, Artefact]) -> None:
    """One artefact of each stage is enough behind a folder of results."""
    for artefact in done.values():
        for other in artefact.folder.parent.glob("*/"):
            if other != artefact.folder and other.suffix not in (".partial", ".parts"):
                shutil.rmtree(other, ignore_errors=True)


def _close(artefact: Artefact, out: Path) -> int:
    """Say what did not work; 1 when a photo could not be used, 0 when at most faces were missing."""
    if not is_first():  # one says it for all; torchrun would stop the others at the first exit code but 0
        return 0
    missed, failed = read_failures(artefact.folder)
    print_failures(failed + missed, out / FAILURES)
    counts = artefact.manifest["counts"]
    made = f"{counts['crops']} crops" if "crops" in counts else f"{counts['faces']} faces in {counts['photos']} photos"
    print(f"{made}, {len(missed)} photos without a face, {len(failed)} failed: {out}")
    return 1 if failed else 0


def _copy_changed(source: Path, target: Path) -> None:
    """Copy a file, in one step, unless the target has the same size and time of change."""
    stat = source.stat()
    if target.exists() and (target.stat().st_size, target.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, source.read_bytes())
    shutil.copystat(source, target)
