"""Stage `align`: photos and faces to crops, one file per crop, in the folders of the photos."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sfplus.alignment import TEMPLATES, centre_crop, warp
from sfplus.alignment.similarity import Fit, fit_similarity
from sfplus.alignment.templates import Template
from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.cache import open_earlier
from sfplus.artifacts.file_record import read_digests
from sfplus.artifacts.inputs import PhotoFolder
from sfplus.artifacts.layout import CROP_TABLE, CROPS, FACE_COLUMNS, FACES, PHOTO_COLUMNS, PHOTOS, photo_stem
from sfplus.artifacts.stage import Job
from sfplus.artifacts.work_sharing import SharedWork
from sfplus.errors import NoUsablePhotoError, PhotoError, SfplusError
from sfplus.images import Pixels, encode_image, is_transient, read_photo, reserve_memory
from sfplus.io.console import quantity
from sfplus.io.disk import explain_write
from sfplus.io.files import digest_json, write_atomically
from sfplus.io.leftovers import remove_leftovers
from sfplus.io.loggers import get_logger
from sfplus.io.prefetch import Reserve, prefetch_batches
from sfplus.io.tables import FAILURES, NO_FACE, Failure, read_json_lines, read_parquet, write_json_lines, write_parquet
from sfplus.recipes.settings.align import AlignStageSettings

_log = get_logger(__name__)

_PART = 64  # photos
_MEMORY = 200_000_000  # bytes of the photos that are read at a time; a larger photo is read alone
Row = dict[str, Any]
AlignJob = Job[AlignStageSettings]


def build(job: AlignJob) -> dict[str, Any]:
    """Cut the crops of all photos and write the table of crops."""
    root, faces = job.input("photos", PhotoFolder).root, job.input("faces", Artefact).folder
    _warn_about_crops(job, faces)
    planned = _plan_crops(faces, job.settings)
    _move_crops_back(job)
    work = _share(job, planned)
    failures = [*read_json_lines(faces / FAILURES, Failure), *work.rows()]
    crops = work.files()
    rows = [row for row in planned if f"{CROPS}/{row['crop']}" in crops]
    _move_crops(job)
    if not rows:
        missed = sum(row["reason"] == NO_FACE for row in failures)
        reason = f"no photo gave a crop ({missed} without a face, {len(failures) - missed} failed)"
        raise NoUsablePhotoError(reason, where=root, remedy=f"see {faces / FAILURES}", failures=failures)
    write_parquet(job.folder / CROP_TABLE, {key: [row[key] for row in rows] for key in ("photo", "crop", "how")})
    write_json_lines(job.folder / FAILURES, sorted(failures, key=lambda row: row["photo"]))
    _EarlierCrops(job).put(rows, job.folder.stem)
    counts = Counter(row["how"] for row in rows)
    return {"crops": len(rows), "centre_crops": counts["centre-crop"], "failures": len(failures)}


def share(job: AlignJob) -> SharedWork:
    """Cut crops until no photo is left, in any number of processes at once."""
    return _share(job, _plan_crops(job.input("faces", Artefact).folder, job.settings))


def _share(job: AlignJob, rows: list[Row]) -> SharedWork:
    root, settings = job.input("photos", PhotoFolder).root, job.settings
    photos = [list(group) for _, group in groupby(rows, itemgetter("photo"))]
    earlier, crops = _EarlierCrops(job), job.parts / CROPS
    cut = partial(_cut_photo, root, crops, settings)
    threads = max(2, torch.get_num_threads())
    with SharedWork(job, photos, _PART, "photos", _name_photo) as work:
        for items in work.rounds():
            for part, group in groupby(items, itemgetter(0)):
                part_photos = [rows for _, rows in group]
                for folder in {row["crop"].rpartition("/")[0] for row in chain(*part_photos)}:
                    (crops / folder).mkdir(parents=True, exist_ok=True)
                new = earlier.link(part_photos)
                failures = prefetch_batches(cut, _fit(new, settings), len(new), threads, memory=_MEMORY) if new else ()
                failed = [row for batch in failures for rows in batch for row in rows]
                digests = {f"{CROPS}/{row['crop']}": row["sha256"] for row in chain(*part_photos) if "sha256" in row}
                work.finish(part, failed, files=digests, known=digests)
    return work


def _name_photo(rows: list[Row]) -> list[str]:
    return [rows[0]["photo"], *(row["crop"] for row in rows)]


class _EarlierCrops:
    """The crops of earlier artefacts with these settings, by the content of the photo and the landmarks."""

    def __init__(self, job: AlignJob) -> None:
        stage, self._root = job.settings.stage, job.folder.parent
        deciding = [stage.version, job.settings.model_dump(mode="json", exclude={"undetected"})]
        self._index = job.context.result_index(stage.name, deciding)
        self._digests = job.input("photos", PhotoFolder).digests
        self._target, self._linked = os.fspath(job.parts), job.linked
        self._records: dict[str, dict[str, str]] = {}  # the SHA-256 of the files of earlier artefacts without damage

    def link(self, photos: Sequence[list[Row]]) -> list[list[Row]]:
        """Link the crops that exist, and return the photos of which crops are missing, with the rows of these."""
        earlier = self._index.get([self._key(row) for row in chain(*photos)])
        for row in chain(*photos):
            self._link(earlier.get(self._key(row), ""), row)
        missing = ([row for row in rows if "sha256" not in row] for rows in photos)
        return [rows for rows in missing if rows]

    def _link(self, crop: str, row: Row) -> None:
        """Link a crop if its artefact is there and not damaged, and add its SHA-256 to the row."""
        folder, _, earlier_name = crop.partition("/")
        if folder and folder not in self._records:
            self._records[folder] = read_digests(self._root / folder) if open_earlier(self._root / folder) else {}
        if (digest := self._records.get(folder, {}).get(earlier_name)) is None:
            return
        name = f"{CROPS}/{row['crop']}"
        source, target = f"{self._root}/{crop}", f"{self._target}/{name}"
        try:
            os.link(source, target)
            self._linked[name] = digest
        except FileNotFoundError:  # it was deleted since
            return
        except OSError:  # the disk has no links, or an interrupted run left this one
            write_atomically(Path(target), Path(source).read_bytes(), sync=False)
        row["sha256"] = digest

    def put(self, rows: Sequence[Row], folder: str) -> None:
        """Remember the crops of an artefact."""
        self._index.put((self._key(row), f"{folder}/{CROPS}/{row['crop']}") for row in rows)

    def _key(self, row: Row) -> str:
        if "key" not in row:
            row["key"] = digest_json([self._digests[row["photo"]], row["landmarks"]])
        return str(row["key"])


def _move_crops_back(job: AlignJob) -> None:
    """Undo `_move_crops` of a process that ended before the artefact was in place, for the check of parts."""
    if (job.folder / CROPS).is_dir() and job.parts.is_dir() and not (job.parts / CROPS).exists():
        (job.folder / CROPS).replace(job.parts / CROPS)


def _move_crops(job: AlignJob) -> None:
    crops = job.parts / CROPS
    if crops.is_dir():
        remove_leftovers(crops, locked=True)
        shutil.rmtree(job.folder / CROPS, ignore_errors=True)
        crops.replace(job.folder / CROPS)


def _plan_crops(faces: Path, settings: AlignStageSettings) -> list[Row]:
    """Return a row per crop: photo, name of the crop, how it is cut, landmarks; crops of one photo are numbered."""
    table, photos = read_parquet(faces / FACES, FACE_COLUMNS), read_parquet(faces / PHOTOS, PHOTO_COLUMNS)["photo"]
    landmarks: dict[str, list[Any]] = {photo: [] for photo in photos}
    for photo, is_chosen, points in zip(table["photo"], table["chosen"], table["landmarks"], strict=True):
        if is_chosen:
            landmarks[photo].append(points)
    if settings.undetected == "centre-crop":
        landmarks = {photo: points or [None] for photo, points in landmarks.items()}
    crops = [
        (_number_photo(photo, index, len(faces_of_photo)), photo, points)
        for photo, faces_of_photo in landmarks.items()
        for index, points in enumerate(faces_of_photo)
    ]
    names = crop_names([name for name, _, _ in crops], settings.suffix)
    return [
        {"photo": photo, "crop": name, "how": "face" if points else "centre-crop", "landmarks": points}
        for (_, photo, points), name in zip(crops, names, strict=True)
    ]


def _number_photo(photo: str, index: int, count: int) -> str:
    if count == 1:
        return photo
    path = PurePosixPath(photo)
    return path.with_name(f"{path.stem}-{index + 1}{path.suffix}").as_posix()


def crop_names(photos: Sequence[str], suffix: str = ".jpg") -> list[str]:
    """Name the file of each crop after its photo, with the extension of crops, or longer where two would collide.

    Numbered crops may have the name of another photo. No two names are equal, even where case does not count, and no
    name is that of a folder.

    Args:
        photos: The photos, as POSIX paths relative to the folder of photos.
        suffix: The extension of the crops.
    """
    stems = [photo_stem(photo) for photo in photos]
    counts = Counter(stem.casefold() for stem in stems)
    taken = set[str]()
    for folder in {photo.rpartition("/")[0] for photo in photos}:
        while folder:
            taken.add(folder.casefold())
            folder = folder.rpartition("/")[0]
    names = []
    for photo, stem in zip(photos, stems, strict=True):
        name = stem if counts[stem.casefold()] == 1 else photo  # a.png and a.jpg in one folder keep different names
        while f"{name}{suffix}".casefold() in taken:
            name += "_"
        taken.add(f"{name}{suffix}".casefold())
        names.append(f"{name}{suffix}")
    return names


def _fit(photos: list[list[Row]], settings: AlignStageSettings) -> list[list[Row]]:
    """Add to each row with landmarks its matrix, or the error if there is none."""
    rows = [row for rows in photos for row in rows if row["landmarks"] is not None]
    points = np.array([row["landmarks"] for row in rows], np.float32).reshape(-1, 5, 2)
    template = settings.find_template()
    matrices: Iterable[Any]
    try:
        matrices = fit_similarity(points, template, settings.fit)
    except PhotoError:  # one of the faces cannot be fitted
        matrices = [_fit_one(face, template, settings.fit) for face in points]
    for row, matrix in zip(rows, matrices, strict=True):
        row["matrix"] = matrix
    return photos


def _fit_one(points: npt.NDArray[np.float32], template: Template, fit: Fit) -> npt.NDArray[np.float64] | PhotoError:
    try:
        (matrix,) = fit_similarity(points[None], template, fit)
    except PhotoError as error:
        return error
    return np.asarray(matrix)


def _cut_photo(root: Path, crops: Path, settings: AlignStageSettings, rows: list[Row], reserve: Reserve) -> list[Row]:
    """Cut the crops of a photo, add the SHA-256 of each to its row, and return the failures."""
    photo: Pixels | None = None
    failures = []
    for row in rows:
        (crops / row["crop"]).unlink(missing_ok=True)  # of an interrupted run: it may be cut, or not of this photo
    for row in rows:
        path = crops / row["crop"]
        try:
            photo = read_photo(root / row["photo"], inspect=reserve_memory(reserve)) if photo is None else photo
            crop = _cut(photo, row, settings)
        except SfplusError as error:
            if is_transient(error):
                raise  # a fault of the disk, not of the photo: the stage stops and can be resumed
            failures.append({"photo": row["photo"], "stage": "align", "reason": error.reason, "remedy": error.remedy})
            if photo is None:
                break
            continue
        data = encode_image(crop, settings.suffix, settings.jpeg_quality)
        with explain_write(path):
            path.write_bytes(data)
        row["sha256"] = hashlib.sha256(data).hexdigest()
    return failures


def _cut(photo: Pixels, row: Row, settings: AlignStageSettings) -> Pixels:
    if row["landmarks"] is None:
        return centre_crop(photo, settings.template)
    if isinstance(row["matrix"], PhotoError):
        raise row["matrix"]
    return warp(photo, row["matrix"], settings.find_template(), settings.interpolation, settings.border)


def _warn_about_crops(job: AlignJob, faces: Path) -> None:
    """Warn if the photos look like crops that are aligned already."""
    photos = read_parquet(faces / PHOTOS, PHOTO_COLUMNS)
    sizes = Counter(zip(photos["height"], photos["width"], strict=True))
    crop_sizes = {(template.height, template.width) for template in TEMPLATES.values()}
    count = sum(count for size, count in sizes.items() if size in crop_sizes)
    if sizes and count > 0.5 * sizes.total():
        root = job.input("photos", PhotoFolder).root
        _log.warning(
            "%s: %d of %s the size of aligned crops; aligning twice costs accuracy, so give the original photos, or "
            "use them as crops", root, count, quantity(sizes.total(), "photo has", "photos have"),
        )  # fmt: skip
