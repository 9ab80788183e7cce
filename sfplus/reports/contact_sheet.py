"""Contact sheet of the detected and aligned photos of a folder: crops, doubtful faces, photos without a face."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sfplus.artifacts.layout import CROP_COLUMNS, CROP_TABLE, CROPS, FACE_COLUMNS, FACES
from sfplus.errors import PhotoError
from sfplus.images import read_photo
from sfplus.io.console import quantity
from sfplus.io.tables import read_failures, read_parquet

_COLUMNS = 8
_TILE, _GAP, _LINE = 112, 6, 16  # pixels
_CROPS, _DOUBTFUL, _UNDETECTED = 24, 16, 16  # tiles at most

Tile = tuple[Image.Image, str]


def draw_contact_sheet(photos: Path, faces: Path, crops: Path) -> NDArray[np.uint8]:
    """Draw a sample of the crops, the chosen faces with the lowest scores, and a sample of photos without a face.

    Args:
        photos: the folder of photos.
        faces: folder of the artefact of the detect stage.
        crops: folder of the artefact of the align stage.

    Returns:
        uint8 RGB (H, W, 3).

    Raises:
        ArtefactError: If a table of an artefact is missing or damaged.
    """
    crop_table, face_table = read_parquet(crops / CROP_TABLE, CROP_COLUMNS), read_parquet(faces / FACES, FACE_COLUMNS)
    files = [crops / CROPS / name for name, how in zip(*(crop_table[key] for key in ("crop", "how")), strict=True)
             if how == "face"]  # fmt: skip
    sample = [(file, file.stem) for file in _sample(files, _CROPS)]
    rows = zip(*(face_table[key] for key in ("score", "photo", "box", "chosen")), strict=True)
    doubtful = sorted((row for row in rows if row[3]), key=lambda row: row[0])[:_DOUBTFUL]
    undetected = [photos / row["photo"] for row in read_failures(crops)[0]]
    undetected_sample = [(photo, photo.name) for photo in _sample(undetected, _UNDETECTED)]
    sections = [
        (f"{len(sample)} of {quantity(len(files), 'crop')}", list(_read_tiles(sample))),
        ("Chosen faces with the lowest scores", list(_face_tiles(photos, doubtful))),
        (f"{quantity(len(undetected), 'photo')} without a detected face", list(_read_tiles(undetected_sample))),
    ]
    return np.asarray(compose_sheet([section for section in sections if section[1]]), np.uint8)


def compose_sheet(sections: Sequence[tuple[str, list[Tile]]]) -> Image.Image:
    """Arrange images in rows of eight with a caption below each.

    Args:
        sections: titles, each with its images and captions.

    Returns:
        An RGB image.
    """
    row_count = sum(-(-len(tiles) // _COLUMNS) for _, tiles in sections)
    step = _TILE + _LINE + _GAP
    size = _COLUMNS * (_TILE + _GAP) + _GAP, row_count * step + len(sections) * 2 * _LINE + _GAP
    sheet = Image.new("RGB", size, "white")
    pen, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(), _GAP
    for title, tiles in sections:
        pen.text((_GAP, top), title, fill="black", font=ImageFont.load_default(14))
        top += 2 * _LINE
        for index, (image, caption) in enumerate(tiles):
            x, y = _GAP + index % _COLUMNS * (_TILE + _GAP), top + index // _COLUMNS * step
            tile = _fit_into_tile(image)
            sheet.paste(tile, (x + (_TILE - tile.width) // 2, y + (_TILE - tile.height) // 2))
            text = caption.encode("latin-1", "replace").decode("latin-1")[:18]  # the default font has no other glyphs
            pen.text((x, y + _TILE + 1), text, fill="black", font=font)
        top += -(-len(tiles) // _COLUMNS) * step
    return sheet


def _fit_into_tile(image: Image.Image) -> Image.Image:
    scale = _TILE / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def _sample(files: Sequence[Path], count: int) -> Sequence[Path]:
    """Return at most `count` files, evenly distributed."""
    return [files[index] for index in np.unique(np.linspace(0, len(files) - 1, count).astype(int))] if files else []


def _read_tiles(files: Sequence[tuple[Path, str]]) -> Iterator[Tile]:
    for path, caption in files:
        try:
            yield Image.fromarray(read_photo(path)), caption
        except PhotoError:  # deleted or changed since
            continue


def _face_tiles(photos: Path, faces: Iterable[tuple[float, str, Sequence[float], bool]]) -> Iterator[Tile]:
    """Yield faces with their box drawn in and a margin of half their size on each side."""
    for score, name, box, _ in faces:
        try:
            photo = Image.fromarray(read_photo(photos / name))
        except PhotoError:  # deleted or changed since
            continue
        (x1, y1, x2, y2), margin = box, max(1, max(box[2] - box[0], box[3] - box[1]) / 2)
        outline = (x1, y1, max(x1, x2), max(y1, y2))
        ImageDraw.Draw(photo).rectangle(outline, outline=(0, 255, 0), width=max(1, int(margin / 20)))
        region = (int(x1 - margin), int(y1 - margin), int(x2 + margin), int(y2 + margin))
        yield photo.crop(region), f"{score:.3f} {PurePosixPath(name).name}"
