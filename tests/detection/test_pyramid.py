from __future__ import annotations

import os
import threading
import warnings

import numpy as np
import pytest
import torch
from facenet_pytorch.models.mtcnn import PNet
from slow_cases import mostly_slow
from torch.nn.functional import interpolate

from sfplus.detection.canvas_batches import CanvasBatch
from sfplus.detection.integral_images import IntegralImages
from sfplus.detection.mtcnn import Detector
from sfplus.detection.pyramid import Canvas, Pyramid, _lock, _table_bytes
from sfplus.detection.pyramid_plan import plan_pyramid
from sfplus.detection.sizes import sizes_for
from sfplus.device import Device, choose_device

CPU = choose_device("cpu")
SIZES = [(250, 250), (97, 131), (64, 301), (20, 20), (21, 20), (33, 1000)]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def to_tensor(photo: np.ndarray) -> torch.Tensor:
    """Return (1, 3, H, W) float, the input of facenet-pytorch before resizing."""
    return torch.from_numpy(photo).permute(2, 0, 1)[None].float()


def canvases(photo: np.ndarray, canvas_pixels: int) -> list[tuple[Canvas, torch.Tensor]]:
    integrals, photo_id = IntegralImages([photo], CPU), torch.tensor([0])
    size = photo.shape[:2]
    pyramid = Pyramid(20, 0.85, CPU, sizes_for(CPU)._replace(canvas=canvas_pixels))
    indices = range(len(pyramid.plan(*size).canvases))
    drawn = [pyramid.canvas(*size, index) for index in indices]
    return [(canvas, integrals.draw_canvas(photo_id, canvas)) for canvas in drawn]


@pytest.mark.parametrize("canvas_pixels", [1 << 17, 2000], ids=["whole levels", "tiles"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pieces_are_the_levels_resized_by_area(height: int, width: int, canvas_pixels: int) -> None:
    photo = noise(height, width)
    layout = plan_pyramid(height, width, 20, 0.85, max_pixels=canvas_pixels)
    drawn = canvases(photo, canvas_pixels)
    covered = {level: np.zeros(size, int) for level, size in enumerate(layout.sides)}
    for (_, pixels), (canvas_height, canvas_width, pieces) in zip(drawn, layout.canvases, strict=True):
        assert pixels.shape == (1, 4, canvas_height, canvas_width)
        assert canvas_height % 2 == canvas_width % 2 == 0
        used = np.zeros((canvas_height, canvas_width), int)
        for piece in pieces:
            level = (interpolate(to_tensor(photo), layout.sides[piece.level], mode="area") - 127.5) / 128
            rows, columns = slice(piece.top, piece.top + piece.height), slice(piece.left, piece.left + piece.width)
            expected = level[..., rows, columns]
            pixels_of_piece = pixels[:, :3, piece.y : piece.y + piece.height, piece.x : piece.x + piece.width]
            torch.testing.assert_close(pixels_of_piece, expected, atol=1e-6, rtol=0)
            used[piece.y : piece.y + piece.height, piece.x : piece.x + piece.width] += 1
            covered[piece.level][rows, columns] += 1
            assert piece.x % 2 == piece.y % 2 == piece.top % 2 == piece.left % 2 == 0
        assert used.max() == 1
    assert all(level.min() > 0 for level in covered.values())
    assert canvas_pixels == 2000 or len(drawn) == 1


@pytest.mark.parametrize("canvas_pixels", [1 << 17, 2000], ids=["whole levels", "tiles"])
@pytest.mark.parametrize(("height", "width"), mostly_slow(SIZES, SIZES[::3]))
def test_all_cells_of_all_levels_have_the_scores_of_facenet_pytorch(
    height: int, width: int, canvas_pixels: int
) -> None:
    photo = noise(height, width)
    layout, detector = plan_pyramid(height, width, 20, 0.85), Detector(thresholds=(0, 0, 0), device="cpu")
    detector._pyramid = Pyramid(20, 0.85, CPU, detector.sizes._replace(canvas=canvas_pixels))
    expected, results, order = {}, {}, {}
    with torch.inference_mode():
        for level, size in enumerate(layout.sides):
            shift, score = PNet()((interpolate(to_tensor(photo), size, mode="area") - 127.5) / 128)
            rows, columns = score.shape[2:]
            for row, column in np.ndindex(rows, columns):
                expected[level, row, column] = [*shift[0, :, row, column].tolist(), score[0, 1, row, column].item()]
        for index, (canvas, _) in enumerate(canvases(photo, canvas_pixels)):
            batch = CanvasBatch((height, width), index, [0], 1, canvas.height * canvas.width)
            ((_, ranks, levels, _, scores, shifts),) = detector._search(IntegralImages([photo], CPU), [batch])
            y, x = (canvas.cells >= 0).nonzero(as_tuple=True)
            pieces = [canvas.pieces[index] for index in canvas.cells[y, x].tolist()]
            positions = [
                (piece.level, y + (piece.top - piece.y) // 2, x + (piece.left - piece.x) // 2)
                for piece, y, x in zip(pieces, y.tolist(), x.tolist(), strict=True)
            ]
            order.update(zip(ranks.tolist(), positions, strict=True))
            assert [position[0] for position in positions] == levels.tolist()
            outputs = torch.cat([shifts, scores[:, None]], 1).tolist()
            assert not set(positions) & set(results)  # no cell twice
            results.update(zip(positions, outputs, strict=True))
    assert set(results) == set(expected)
    assert [order[rank] for rank in sorted(order)] == sorted(results)
    keys = sorted(expected)
    np.testing.assert_allclose([results[k] for k in keys], [expected[k] for k in keys], atol=2e-5)


@pytest.mark.parametrize("side", [24, 48])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("beyond", [0, 20])
def test_regions_are_resized_by_area_on_black(side: int, mirrored: bool, beyond: int) -> None:
    photos = [noise(90, 70, 1), noise(31, 200, 2), noise(1, 5, 3)]
    padded = [np.pad(photo, ((beyond, beyond), (beyond, beyond), (0, 0))) for photo in photos]
    rng = np.random.default_rng(0)
    photo_ids = np.array([0] * 30 + [1] * 30 + [2] * 5)
    limits = np.array([photo.shape[1::-1] for photo in padded])[photo_ids]
    first = (rng.uniform(0, 1, (65, 2)) * limits).astype(int)
    last = first + 1 + (rng.uniform(0, 1, (65, 2)) * (limits - first)).astype(int)
    last = np.minimum(last, limits)
    regions = torch.from_numpy(np.hstack([first, last]) - beyond)
    crops = IntegralImages(photos, CPU).crop_and_resize(torch.from_numpy(photo_ids), regions, side, mirrored)
    assert crops.shape[1] == 4 and crops.is_contiguous(memory_format=torch.channels_last)
    for photo_id, (left, top, right, bottom), crop in zip(photo_ids, (regions + beyond).tolist(), crops, strict=True):
        expected = (
            interpolate(to_tensor(padded[photo_id][top:bottom, left:right]), (side, side), mode="area") - 127.5
        ) / 128
        torch.testing.assert_close(crop[None, :3], expected.flip(3) if mirrored else expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("squeeze", [False, True])
def test_boxes_that_touch_the_photo_become_regions(squeeze: bool) -> None:
    """Boxes count from 1 and include their last pixel, as in pad.m."""
    integrals = IntegralImages([noise(50, 40)], CPU, squeeze)
    boxes = torch.tensor([[1, 1, 40, 50], [-5.7, 0.9, 3.9, 99.5], [39.6, 2, 80, 3], [60, 60, 70, 70], [-9, -9, 0.5, 5]])
    regions = integrals.regions(torch.zeros(5, dtype=torch.long), boxes)
    squeezed, padded = [[0, 0, 3, 50], [38, 1, 40, 3]], [[-7, -1, 3, 99], [38, 1, 80, 3]]
    assert regions[:3].tolist() == [[0, 0, 40, 50], *(squeezed if squeeze else padded)]
    assert not regions[3:].any()


def test_sums_beyond_32_bits_give_correct_means() -> None:
    white = np.full((3000, 3000, 3), 255, np.uint8)  # 2.3e9 > 2^31
    white[-50:, -50:] = 10
    integrals = IntegralImages([white], CPU)
    regions = torch.tensor([[0, 0, 3000, 2900], [2950, 2950, 3000, 3000], [2000, 1000, 2900, 2900]])
    crops = (integrals.crop_and_resize(torch.zeros(3, dtype=torch.long), regions, 24)[:, :3] * 128 + 127.5).flatten(1)
    torch.testing.assert_close(crops[:, 0], torch.tensor([255.0, 10, 255]))
    torch.testing.assert_close(crops.amin(1), crops.amax(1))


def test_tables_are_kept_up_to_a_number_of_bytes() -> None:
    """The ones that were used last stay; those of a size that does not fit are not kept at all."""
    sizes = [(60, 60 + n) for n in range(6)]
    bytes_of = sum(_table_bytes(plan_pyramid(*size, 20, 0.85)) for size in sizes[:3])
    pyramid = Pyramid(20, 0.85, CPU, sizes_for(CPU)._replace(tables=bytes_of + 2000))
    first = [pyramid.canvas(*size, 0) for size in sizes[:3]]
    assert all(pyramid.canvas(*size, 0) is canvas for size, canvas in zip(sizes, first, strict=False))
    assert pyramid._bytes == sum(table.nbytes for c in first for table in (c.corners, c.weight, c.cells)) == bytes_of
    pyramid.canvas(*sizes[0], 0)  # used last
    pyramid.canvas(*sizes[3], 0)
    assert pyramid.canvas(*sizes[0], 0) is first[0] and pyramid.canvas(*sizes[1], 0) is not first[1]
    assert pyramid._bytes <= bytes_of + 2000
    kept = dict(pyramid._kept)
    assert pyramid.canvas(400, 400, 0) is not pyramid.canvas(400, 400, 0) and pyramid._kept == kept


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_can_keep_tables_that_another_thread_was_keeping() -> None:
    """The fork waits until the tables and their size agree."""
    pyramid = Pyramid(20, 0.85, CPU, sizes_for(CPU))
    _lock.acquire()
    threading.Timer(0.1, _lock.release).start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks of threaded processes
        child = os.fork()
    if not child:
        os._exit(_lock.locked() or pyramid.canvas(60, 60, 0) is not pyramid.canvas(60, 60, 0))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_cpu_keeps_the_tables_of_a_photo_of_one_megapixel_and_a_gpu_those_of_twelve() -> None:
    for device, size in ((CPU, (1000, 1000)), (Device(torch.device("cuda")), (3000, 4000))):
        assert _table_bytes(plan_pyramid(*size, 20, 0.85)) <= sizes_for(device).tables
