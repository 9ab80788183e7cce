"""Stage `align`: photos and faces to crops, one file a photo, in the folders of the photos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from sfplus.alignment.templates import Template, find_template
from sfplus.errors import DatasetError, SfplusError, UsageError
from sfplus.stages.cache import Job, Stage
from sfplus.stages.detect import FACES, PHOTOS
from sfplus.stages.tables import FAILURES, read_lines, read_table, write_lines, write_table

CROPS, TABLE = "crops", "crops.parquet"
_CHUNK = 256  # photos between two looks at the progress line


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
    import torch

    settings: AlignFolderSettings = job.settings
    root, faces = job.inputs["photos"].root, job.inputs["faces"].folder
    rows = _plan(faces, settings)
    _notice_crops(job, faces)
    step = job.run.bar
    step.start(len(rows), "crops")
    failures = read_lines(faces / FAILURES)
    with ThreadPoolExecutor(max(2, torch.get_num_threads())) as pool:
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            errors = list(pool.map(lambda row: _align(root, job.folder / CROPS, row, settings), chunk))
            failures += [
                {"photo": row["photo"], "stage": "align", "reason": error.reason, "remedy": error.remedy}
                for row, error in zip(chunk, errors, strict=True) if error
            ]  # fmt: skip
            step.advance(len(chunk))
    rows = [row for row in rows if (job.folder / CROPS / row["crop"]).is_file()]
    if not rows:
        raise DatasetError("no photo gave a crop", where=root, remedy="look at failures.jsonl of the detect stage")
    write_table(job.folder / TABLE, {key: [row[key] for row in rows] for key in ("photo", "crop", "how")})
    write_lines(job.folder / FAILURES, sorted(failures, key=lambda row: row["photo"]))
    how = Counter(row["how"] for row in rows)
    return {"crops": len(rows), "centre_crops": how["centre-crop"], "failures": len(failures)}


def _plan(faces: Path, settings: AlignFolderSettings) -> list[dict[str, Any]]:
    """The crops to make: photo, name of the crop, how, landmarks; several of a photo are numbered."""
    table, photos = read_table(faces / FACES), read_table(faces / PHOTOS)["photo"]
    chosen: dict[str, list[Any]] = {photo: [] for photo in photos}
    for photo, used, points in zip(table["photo"], table["chosen"], table["landmarks"], strict=True):
        if used:
            chosen[photo].append(points)
    if settings.undetected == "centre-crop":
        chosen = {photo: points or [None] for photo, points in chosen.items()}
    wanted = {
        _numbered(photo, index, len(all_)): (photo, all_[index])
        for photo, all_ in chosen.items()
        for index in range(len(all_))
    }
    return [
        {"photo": photo, "crop": crop, "how": "face" if points else "centre-crop", "landmarks": points}
        for (photo, points), crop in zip(
            wanted.values(), crop_names(list(wanted), settings.suffix).values(), strict=True
        )
    ]


def _numbered(photo: str, index: int, count: int) -> str:
    path = PurePosixPath(photo)
    return photo if count == 1 else path.with_name(f"{path.stem}-{index + 1}{path.suffix}").as_posix()


def crop_names(photos: Sequence[str], suffix: str = ".jpg") -> dict[str, str]:
    """The file of each photo's crop: its name with the suffix of crops, or something longer where two would meet.

    No two names are equal, also where case does not count, and none is the name of a folder.
    """
    stems = {photo: PurePosixPath(photo).with_suffix("").as_posix() for photo in photos}
    shared = Counter(stem.casefold() for stem in stems.values())
    taken = {parent.as_posix().casefold() for photo in photos for parent in PurePosixPath(photo).parents}
    names = {}
    for photo, stem in stems.items():
        name = stem if shared[stem.casefold()] == 1 else photo  # a.png and a.jpg side by side stay apart
        while f"{name}{suffix}".casefold() in taken:
            name += "_"
        taken.add(f"{name}{suffix}".casefold())
        names[photo] = f"{name}{suffix}"
    return names


def _align(root: Path, crops: Path, row: dict[str, Any], settings: AlignFolderSettings) -> SfplusError | None:
    from sfplus.alignment import align, centre_crop
    from sfplus.images import encode_image, is_passing, read_photo, write_atomically

    path = crops / row["crop"]
    if path.is_file():  # made before an interruption; each crop appears whole or not at all
        return None
    try:
        photo = read_photo(root / row["photo"])
        if row["landmarks"] is None:
            crop = centre_crop(photo, settings.template)
        else:
            points = np.array(row["landmarks"], np.float32).reshape(5, 2)
            template = settings.find_template()
            crop = align(photo, points, template, settings.fit, settings.interpolation, settings.border)
    except SfplusError as error:
        if is_passing(error):
            raise  # not the photo's fault: the stage stops, and goes on from here another time
        return error
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, encode_image(crop, settings.suffix, settings.jpeg_quality))
    return None


def _notice_crops(job: Job, faces: Path) -> None:
    """Say it when the photos look like crops that somebody aligned already."""
    from sfplus.alignment import TEMPLATES

    photos = read_table(faces / PHOTOS)
    sizes = Counter(zip(photos["height"], photos["width"], strict=True))
    crop_sizes = {(t.height, t.width) for t in TEMPLATES.values()}
    already = sum(count for size, count in sizes.items() if size in crop_sizes)
    if sizes and already > 0.5 * sizes.total():
        job.run.console.warn(
            f"{job.inputs['photos'].root}: {already} of {sizes.total()} photos have the size of aligned crops; "
            f"aligning twice costs accuracy, so give the original photos, or use them as crops"
        )


STAGE = Stage("align", 2, _build)
