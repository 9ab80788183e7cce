"""Stage `align`: photos and faces to crops, one file a photo, in the folders of the photos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from sfplus.errors import DatasetError, SfplusError
from sfplus.stages.cache import Job, Stage
from sfplus.stages.detect import FACES, PHOTOS
from sfplus.stages.tables import FAILURES, read_lines, read_table, write_lines, write_table

CROPS, TABLE = "crops", "crops.parquet"
_CHUNK = 256  # photos between two looks at the progress line


class AlignSettings(BaseModel):
    """The similarity that takes five landmarks to a template, as the original did it (face_align_demo.m)."""

    model_config = ConfigDict(extra="forbid")

    template: Literal["sphereface-112x96", "arcface-112x112"] = Field(
        "sphereface-112x96", description="where the landmarks go (face_align_demo.m: 112 high, 96 wide)"
    )
    fit: Literal["image", "template"] = Field(
        "image", description="least squares in the photo (face_align_demo.m: cp2tform) or in the crop (Umeyama)"
    )
    jpeg_quality: int = Field(75, ge=1, le=95, description="of the crops (face_align_demo.m: MATLAB's imwrite, 75)")


class AlignFolderSettings(AlignSettings):
    """What one set of photos needs besides: set by the chain, not by recipes."""

    undetected: Literal["drop", "centre-crop"] = "drop"


def _build(job: Job) -> dict[str, Any]:
    settings: AlignFolderSettings = job.settings
    root, faces = job.inputs["photos"].root, job.inputs["faces"].folder
    rows = _plan(faces, settings.undetected)
    _notice_crops(job, faces)
    step = job.run.bar
    step.start(len(rows), "crops")
    failures = read_lines(faces / FAILURES)
    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            errors = list(pool.map(lambda row: _align(root, job.folder / CROPS, row, settings), chunk))
            failures += [
                {"photo": row["photo"], "stage": "align", "reason": error.reason, "remedy": error.remedy}
                for row, error in zip(chunk, errors, strict=True) if error
            ]  # fmt: skip
            step.advance(len(chunk))
    lost = {row["photo"] for row in failures if row["stage"] == "align"}
    rows = [row for row in rows if row["photo"] not in lost]
    if not rows:
        raise DatasetError("no photo gave a crop", where=root, remedy="look at failures.jsonl of the detect stage")
    write_table(job.folder / TABLE, {key: [row[key] for row in rows] for key in ("photo", "crop", "how")})
    write_lines(job.folder / FAILURES, sorted(failures, key=lambda row: row["photo"]))
    how = Counter(row["how"] for row in rows)
    return {"crops": len(rows), "centre_crops": how["centre-crop"], "failures": len(failures)}


def _plan(faces: Path, undetected: str) -> list[dict[str, Any]]:
    """The crops to make: photo, name of the crop, how, landmarks."""
    table, photos = read_table(faces / FACES), read_table(faces / PHOTOS)["photo"]
    chosen = {
        photo: points
        for photo, used, points in zip(table["photo"], table["chosen"], table["landmarks"], strict=True) if used
    }  # fmt: skip
    if undetected == "drop":
        photos = [photo for photo in photos if photo in chosen]
    return [
        {
            "photo": photo,
            "crop": crop,
            "how": "face" if photo in chosen else "centre-crop",
            "landmarks": chosen.get(photo),
        }
        for photo, crop in crop_names(photos).items()
    ]


def crop_names(photos: Sequence[str]) -> dict[str, str]:
    """The file of each photo's crop: its name with `.jpg`, or something longer where two would meet.

    No two names are equal, also where case does not count, and none is the name of a folder.
    """
    stems = {photo: PurePosixPath(photo).with_suffix("").as_posix() for photo in photos}
    shared = Counter(stem.casefold() for stem in stems.values())
    taken = {parent.as_posix().casefold() for photo in photos for parent in PurePosixPath(photo).parents}
    names = {}
    for photo, stem in stems.items():
        name = stem if shared[stem.casefold()] == 1 else photo  # a.png and a.jpg side by side stay apart
        while f"{name}.jpg".casefold() in taken:
            name += "_"
        taken.add(f"{name}.jpg".casefold())
        names[photo] = f"{name}.jpg"
    return names


def _align(root: Path, crops: Path, row: dict[str, Any], settings: AlignFolderSettings) -> SfplusError | None:
    from sfplus.alignment import TEMPLATES, align, centre_crop
    from sfplus.images import encode_image, is_passing, read_photo, write_atomically

    path = crops / row["crop"]
    if path.is_file():  # made before an interruption; each crop appears whole or not at all
        return None
    try:
        photo = read_photo(root / row["photo"])
        if row["landmarks"] is None:
            crop = centre_crop(photo, TEMPLATES[settings.template])
        else:
            points = np.array(row["landmarks"], np.float32).reshape(5, 2)
            crop = align(photo, points, settings.template, settings.fit)
    except SfplusError as error:
        if is_passing(error):
            raise  # not the photo's fault: the stage stops, and goes on from here another time
        return error
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, encode_image(crop, ".jpg", settings.jpeg_quality))
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


STAGE = Stage("align", 1, _build)
