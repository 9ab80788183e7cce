import numpy as np
import pytest
import torch
from matlab_cascade import crops, resample

from sfplus.detection.imresample import MatlabIntegralImages
from sfplus.detection.pyramid import Pyramid
from sfplus.detection.sizes import sizes_for
from sfplus.device import choose_device

CPU = choose_device("cpu")
PHOTO = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)


@pytest.mark.parametrize("side", [24, 48])
@pytest.mark.parametrize("mirrored", [False, True])
def test_regions_are_padded_and_resized_as_by_the_original(side: int, mirrored: bool) -> None:
    """Boxes shrink, keep their size and grow, inside the photo and beyond each of its borders."""
    boxes = torch.tensor(
        [[1, 1, 70, 70], [10, 20, 33, 43], [5, 5, 17, 17], [-20, -9, 30, 41], [60, 70, 99, 109]]
    ).float()
    integrals = MatlabIntegralImages([np.zeros((9, 9, 3), np.uint8), PHOTO], CPU)
    photo_ids = torch.ones(5, dtype=torch.long)
    pixels = integrals.crop_and_resize(photo_ids, integrals.regions(photo_ids, boxes), side, mirrored)
    expected = crops(PHOTO, boxes.numpy(), side)
    torch.testing.assert_close(pixels[:, :3], expected.flip(3) if mirrored else expected, atol=1e-5, rtol=0)
    assert pixels.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("canvas_pixels", [1 << 17, 1000], ids=["whole levels", "tiles"])
def test_canvases_contain_the_levels_resized_as_by_the_original(canvas_pixels: int) -> None:
    pyramid = Pyramid(30, 0.7, CPU, sizes_for(CPU)._replace(canvas=canvas_pixels), matlab=True)
    integrals = MatlabIntegralImages([PHOTO], CPU)
    for index in range(len(pyramid.plan(90, 70).canvases)):
        canvas = pyramid.canvas(90, 70, index)
        pixels = integrals.draw_canvas(torch.tensor([0]), canvas)
        for piece in canvas.pieces:
            level = resample(PHOTO, *canvas.sides[piece.level])
            expected = level[..., piece.top : piece.top + piece.height, piece.left : piece.left + piece.width]
            piece_pixels = pixels[:, :3, piece.y : piece.y + piece.height, piece.x : piece.x + piece.width]
            torch.testing.assert_close(piece_pixels, expected, atol=1e-5, rtol=0)
