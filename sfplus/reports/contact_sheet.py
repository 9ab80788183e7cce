"""A contact sheet of what detect and align did with a folder: crops, doubtful faces, photos without a face."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, ImageOps

from sfplus.artifacts.layout import CROP_TABLE, CROPS, FACES
from sfplus.errors import PhotoError
from sfplus.images import read_photo
from sfplus.io.tables import read_failures, read_parquet

_ACROSS, _SIDE, _GAP, _LINE = 8, 112, 6, 16  # pictures in a row, pixels
_SAMPLES, _DOUBTFUL, _MISSES = 24, 16, 16

Picture = tuple[Image.Image, str]


def draw(photos: Path, faces: Path, crops: Path) -> npt.NDArray[np.uint8]:
    """Draw the sheet.

    Args:
        photos: the folder of photos.
        faces: the artefact of detect.
        crops: the artefact of align.

    Returns:
        uint8 RGB (H, W, 3).
    """
    table, found = read_parquet(crops / CROP_TABLE), read_parquet(faces / FACES)
    made = [crops / CROPS / name for name, how in zip(table["crop"], table["how"], strict=True) if how == "face"]
    samples = [(path, path.stem) for path in _spread(made, _SAMPLES)]
    used = [row for row in zip(found["score"], found["photo"], found["box"], found["chosen"], strict=True) if row[3]]
    doubtful = sorted(used, key=lambda row: row[0])[:_DOUBTFUL]
    missed = [row["photo"] for row in read_failures(crops)[0]]
    parts = [
        (f"{len(made)} crops, {len(samples)} of them", list(_opened(samples))),
        (
            "Chosen faces with the lowest scores",
            [_doubt(photos / name, box, score) for score, name, box, _ in doubtful],
        ),
        (
            f"{len(missed)} photos without a face",
            list(_opened([(photos / name, Path(name).name) for name in _spread(missed, _MISSES)])),
        ),
    ]
    return np.asarray(lay_out([(title, pictures) for title, pictures in parts if pictures]), np.uint8)


def _spread(items: Sequence[Path], count: int) -> Sequence[Path]:
    """At most `count` of them, evenly."""
    return [items[index] for index in np.unique(np.linspace(0, len(items) - 1, count).astype(int))] if items else []


def _opened(files: Sequence[tuple[Path, str]]) -> Iterator[Picture]:
    for path, name in files:
        try:
            yield Image.fromarray(read_photo(path)), name
        except PhotoError:  # gone since
            continue


def _doubt(path: Path, box: Sequence[float], score: float) -> Picture:
    """The face and as much again around it."""
    photo = Image.fromarray(read_photo(path))
    (x1, y1, x2, y2), margin = box, max(box[2] - box[0], box[3] - box[1]) / 2
    ImageDraw.Draw(photo).rectangle(
        (x1, y1, max(x1, x2), max(y1, y2)), outline=(0, 255, 0), width=max(1, int(margin / 20))
    )
    return photo.crop(
        (int(x1 - margin), int(y1 - margin), int(x2 + margin), int(y2 + margin))
    ), f"{score:.3f} {path.name}"


def lay_out(parts: Sequence[tuple[str, list[Picture]]]) -> Image.Image:
    """Pictures with a line below each, eight in a row, in parts that have a title."""
    rows = sum(-(-len(pictures) // _ACROSS) for _, pictures in parts)
    step = _SIDE + _LINE + _GAP
    sheet = Image.new("RGB", (_ACROSS * (_SIDE + _GAP) + _GAP, rows * step + len(parts) * 2 * _LINE + _GAP), "white")
    pen, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(), _GAP
    for title, pictures in parts:
        pen.text((_GAP, top), title, fill="black", font=ImageFont.load_default(14))
        top += 2 * _LINE
        for index, (picture, name) in enumerate(pictures):
            x, y = _GAP + index % _ACROSS * (_SIDE + _GAP), top + index // _ACROSS * step
            sheet.paste(ImageOps.pad(picture, (_SIDE, _SIDE), color="white"), (x, y))
            pen.text(
                (x, y + _SIDE + 1), name.encode("latin-1", "replace").decode("latin-1")[:18], fill="black", font=font
            )
        top += -(-len(pictures) // _ACROSS) * step
    return sheet
