"""Stage `align`: photos and faces to crops, one file a photo, in the folders of the photos."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator

from sfplus.alignment.similarity import Fit, fit_similarity
from sfplus.alignment.templates import Template, find_template
from sfplus.artifacts.cache import Job, Stage
from sfplus.artifacts.work_sharing import Parts
from sfplus.errors import DatasetError, PhotoError, SfplusError, UsageError
from sfplus.images import Pixels
from sfplus.io.tables import FAILURES, read_json_lines, read_parquet, write_json_lines, write_parquet
from sfplus.stages.detect import FACES, PHOTOS

CROPS, TABLE = "crops", "crops.parquet"
_PART = 64  # photos


class AlignSettings(BaseModel):
    """The similarity that takes five landmarks to a template, as the original did it (face_align_demo.m)."""

    model_config = ConfigDict(extra="forbid")

    template: str = Field(
        "sphereface-112x96",
        description="where the landmarks go (face_align_demo.m: 112 high, 96 wide); arcface-112x112, or any size",
    )
    first_pixel: Literal["source", 0, 1] = Field(
        "source", description="what the template calls its first pixel (MATLAB: 1; OpenCV ports of SphereFace: 0)"
    )
    fit: Literal["image", "template"] = Field(
        "image", description="least squares in the photo (face_align_demo.m: cp2tform) or in the crop (Umeyama)"
    )
    interpolation: Literal["bilinear", "area", "antialiased"] = Field(
        "bilinear", description="how larger faces are made smaller (face_align_demo.m: imtransform, bilinear)"
    )
    border: Literal["black", "replicate"] = Field(
        "black", description="what lies outside the photo (face_align_demo.m: imtransform, black)"
    )
    format: Literal["jpeg", "png"] = Field("jpeg", description="of the crops (face_align_demo.m: imwrite, jpg)")
    jpeg_quality: int = Field(75, ge=1, le=95, description="of the crops (face_align_demo.m: MATLAB's imwrite, 75)")

    @field_validator("template")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            return find_template(name).name
        except UsageError as error:
            raise ValueError(str(error)) from error

    @property
    def suffix(self) -> str:
        """Of the crops' files."""
        return ".png" if self.format == "png" else ".jpg"

    def find_template(self) -> Template:
        """The template, counted as these settings say."""
        template = find_template(self.template)
        return template if self.first_pixel == "source" else template.counted_from(self.first_pixel)


class AlignFolderSettings(AlignSettings):
    """What one set of photos needs besides: set by the chain, not by recipes."""

    undetected: Literal["drop", "centre-crop"] = "drop"


def _build(job: Job) -> dict[str, Any]:
    root, faces = job.inputs["photos"].root, job.inputs["faces"].folder
    _notice_crops(job, faces)
    failures = read_json_lines(faces / FAILURES) + _share(job).rows()
    _move_crops(job)
    rows = [row for row in _plan(faces, job.settings) if (job.folder / CROPS / row["crop"]).is_file()]
    if not rows:
        raise DatasetError("no photo gave a crop", where=root, remedy="look at failures.jsonl of the detect stage")
    write_parquet(job.folder / TABLE, {key: [row[key] for row in rows] for key in ("photo", "crop", "how")})
    write_json_lines(job.folder / FAILURES, sorted(failures, key=lambda row: row["photo"]))
    how = Counter(row["how"] for row in rows)
    return {"crops": len(rows), "centre_crops": how["centre-crop"], "failures": len(failures)}


def _share(job: Job) -> Parts:
    """Cut crops until nothing is left, beside other processes that do the same."""
    import torch

    root, settings = job.inputs["photos"].root, job.settings
    rows = _plan(job.inputs["faces"].folder, settings)
    photos = [list(group) for _, group in groupby(rows, itemgetter("photo"))]
    threads = max(2, torch.get_num_threads())
    with Parts(job, photos, _PART, "photos") as parts, ThreadPoolExecutor(threads) as pool:
        for items in parts.rounds():
            for part, group in groupby(items, itemgetter(0)):
                some = _fit([rows for _, rows in group], settings)
                failures = pool.map(lambda rows: _align(root, job.parts / CROPS, rows, settings), some)
                parts.finish(part, [row for rows in failures for row in rows])
    return parts


def _move_crops(job: Job) -> None:
    made = job.parts / CROPS
    if made.is_dir():
        for leftover in made.rglob(".*.part"):  # what a kill left of a file that was being written
            leftover.unlink()
        shutil.rmtree(job.folder / CROPS, ignore_errors=True)
        made.replace(job.folder / CROPS)


def _plan(faces: Path, settings: AlignFolderSettings) -> list[dict[str, Any]]:
    """The crops to make: photo, name of the crop, how, landmarks; several of a photo are numbered."""
    table, photos = read_parquet(faces / FACES), read_parquet(faces / PHOTOS)["photo"]
    chosen: dict[str, list[Any]] = {photo: [] for photo in photos}
    for photo, used, points in zip(table["photo"], table["chosen"], table["landmarks"], strict=True):
        if used:
            chosen[photo].append(points)
    if settings.undetected == "centre-crop":
        chosen = {photo: points or [None] for photo, points in chosen.items()}
    wanted = [
        (_numbered(photo, index, len(all_)), photo, points)
        for photo, all_ in chosen.items()
        for index, points in enumerate(all_)
    ]
    names = crop_names([name for name, _, _ in wanted], settings.suffix)
    return [
        {"photo": photo, "crop": crop, "how": "face" if points else "centre-crop", "landmarks": points}
        for (_, photo, points), crop in zip(wanted, names, strict=True)
    ]


def _numbered(photo: str, index: int, count: int) -> str:
    path = PurePosixPath(photo)
    return photo if count == 1 else path.with_name(f"{path.stem}-{index + 1}{path.suffix}").as_posix()


def crop_names(photos: Sequence[str], suffix: str = ".jpg") -> list[str]:
    """The file of each crop: the photo's name with the suffix of crops, or something longer where two would meet.

    Numbered crops may have the name of another photo. No two files are equal, also where case does not count, and none
    is the name of a folder.
    """
    stems = [PurePosixPath(photo).with_suffix("").as_posix() for photo in photos]
    shared = Counter(stem.casefold() for stem in stems)
    taken = {parent.as_posix().casefold() for photo in photos for parent in PurePosixPath(photo).parents}
    names = []
    for photo, stem in zip(photos, stems, strict=True):
        name = stem if shared[stem.casefold()] == 1 else photo  # a.png and a.jpg side by side stay apart
        while f"{name}{suffix}".casefold() in taken:
            name += "_"
        taken.add(f"{name}{suffix}".casefold())
        names.append(f"{name}{suffix}")
    return names


def _fit(photos: list[list[dict[str, Any]]], settings: AlignFolderSettings) -> list[list[dict[str, Any]]]:
    """Add to each row with landmarks its matrix, or the error that there is none."""
    rows = [row for rows in photos for row in rows if row["landmarks"] is not None]
    points = np.array([row["landmarks"] for row in rows], np.float32).reshape(-1, 5, 2)
    template = settings.find_template()
    fits: Iterable[Any]
    try:
        fits = fit_similarity(points, template, settings.fit)
    except PhotoError:  # of some face
        fits = [_fit_one(face, template, settings.fit) for face in points]
    for row, fit in zip(rows, fits, strict=True):
        row["matrix"] = fit
    return photos


def _fit_one(points: npt.NDArray[np.float32], template: Template, fit: Fit) -> npt.NDArray[np.float64] | PhotoError:
    try:
        (matrix,) = fit_similarity(points[None], template, fit)
    except PhotoError as error:
        return error
    return np.asarray(matrix)


def _align(root: Path, crops: Path, rows: list[dict[str, Any]], settings: AlignFolderSettings) -> list[dict[str, Any]]:
    """Cut the crops of a photo that are not there yet; gives its failures."""
    from sfplus.images import encode_image, is_transient, read_photo
    from sfplus.io.files import write_atomically

    photo: Pixels | None = None
    failures = []
    for row in rows:
        path = crops / row["crop"]
        if path.is_file():  # made before an interruption; each crop appears whole or not at all
            continue
        try:
            photo = read_photo(root / row["photo"]) if photo is None else photo
            crop = _cut(photo, row, settings)
        except SfplusError as error:
            if is_transient(error):
                raise  # not the photo's fault: the stage stops, and goes on from here another time
            failures.append({"photo": row["photo"], "stage": "align", "reason": error.reason, "remedy": error.remedy})
            if photo is None:
                break
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, encode_image(crop, settings.suffix, settings.jpeg_quality))
    return failures


def _cut(photo: Pixels, row: dict[str, Any], settings: AlignFolderSettings) -> Pixels:
    from sfplus.alignment import centre_crop, warp

    if row["landmarks"] is None:
        return centre_crop(photo, settings.template)
    if isinstance(row["matrix"], PhotoError):
        raise row["matrix"]
    return warp(photo, row["matrix"], settings.find_template(), settings.interpolation, settings.border)


def _notice_crops(job: Job, faces: Path) -> None:
    """Say it when the photos look like crops that somebody aligned already."""
    from sfplus.alignment import TEMPLATES

    photos = read_parquet(faces / PHOTOS)
    sizes = Counter(zip(photos["height"], photos["width"], strict=True))
    crop_sizes = {(t.height, t.width) for t in TEMPLATES.values()}
    already = sum(count for size, count in sizes.items() if size in crop_sizes)
    if sizes and already > 0.5 * sizes.total():
        job.run.console.warn(
            f"{job.inputs['photos'].root}: {already} of {sizes.total()} photos have the size of aligned crops; "
            f"aligning twice costs accuracy, so give the original photos, or use them as crops"
        )


STAGE = Stage("align", 2, _build, _share)
