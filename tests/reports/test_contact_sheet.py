from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfplus.artifacts.layout import CROP_TABLE, CROPS, FACES
from sfplus.io.tables import FAILURES, NO_FACE, write_json_lines, write_parquet
from sfplus.reports.contact_sheet import _face_tiles, compose_sheet, draw_contact_sheet

RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_tiles_are_arranged_in_rows_of_eight_below_their_title() -> None:
    tiles = [(Image.new("RGB", (112, 112), RED), f"photo {i} é 漢") for i in range(9)]
    sheet = compose_sheet([("nine", tiles), ("one", [(Image.new("RGB", (112, 56), BLUE), "wide")])])
    assert sheet.size == (8 * 118 + 6, 3 * 134 + 2 * 32 + 6)
    pixels = np.asarray(sheet)
    assert (pixels[38:150, 6:118] == RED).all() and (pixels[38 + 134 : 150 + 134, 6:118] == RED).all()
    assert (pixels[38 + 134 : 150 + 134, 124:] == 255).all(), "the second row has a single tile"
    top = 38 + 2 * 134 + 32
    assert (pixels[top + 28 : top + 84, 6:118] == BLUE).all() and (pixels[top : top + 28, 6:118] == 255).all()


def test_a_sheet_has_crops_doubtful_faces_and_photos_without_a_face(tmp_path: Path) -> None:
    photos, faces, crops = (tmp_path / name for name in ("photos", "faces", "crops"))
    for folder in (photos, faces, crops / CROPS):
        folder.mkdir(parents=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (200, 200), BLUE).save(photos / name)
    Image.new("RGB", (96, 112), RED).save(crops / CROPS / "a.png")
    write_parquet(crops / CROP_TABLE, {"photo": ["a.png"], "crop": ["a.png"], "how": ["face"]})
    write_parquet(faces / FACES, {
        "photo": ["a.png"] * 2, "score": [0.9, 0.8], "box": [[50.0, 50.0, 100.0, 100.0]] * 2, "chosen": [True, False],
        "face": [0, 1], "reason": [""] * 2, "landmarks": [[60.0] * 10] * 2,
    })  # fmt: skip
    write_json_lines(
        crops / FAILURES,
        [{"photo": photo, "stage": "detect", "reason": NO_FACE, "remedy": ""} for photo in ("b.png", "c.png")],
    )
    sheet = draw_contact_sheet(photos, faces, crops)
    assert sheet.shape == (3 * 134 + 3 * 32 + 6, 8 * 118 + 6, 3) and sheet.dtype == np.uint8
    tops = [6 + 32 + section * (134 + 32) for section in range(3)]
    crop, face, undetected = (sheet[top : top + 112, 6:118] for top in tops)
    assert (crop[:, 8:104] == RED).all() and (undetected == BLUE).all()
    assert (face == (0, 255, 0)).all(2).any(), "the box is drawn"
    assert (sheet[tops[2] : tops[2] + 112, 124:] == 255).all(), "a photo that was deleted since is skipped"


@pytest.mark.parametrize("size", [(600, 2), (2, 600), (1, 1), (3000, 1), (112, 1), (40, 41)])
def test_tiles_of_any_shape_are_drawn(size: tuple[int, int]) -> None:
    sheet = np.asarray(compose_sheet([("one", [(Image.new("RGB", size, BLUE), "photo")])]))
    rows, columns = np.nonzero((sheet == BLUE).all(2))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert max(width, height) == 112 and min(width, height) >= 1
    assert abs(rows.mean() - (38 + 55.5)) <= 0.5 and abs(columns.mean() - (6 + 55.5)) <= 0.5, (
        "in the middle of the tile"
    )


def test_a_photo_that_cannot_be_read_any_more_has_no_tile(tmp_path: Path) -> None:
    Image.new("RGB", (200, 200), BLUE).save(tmp_path / "a.png")
    faces = [(0.9, "a.png", [50.0, 50.0, 100.0, 100.0], True), (0.8, "gone.png", [0.0, 0.0, 1.0, 1.0], True)]
    assert [caption for _, caption in _face_tiles(tmp_path, faces)] == ["0.900 a.png"]
