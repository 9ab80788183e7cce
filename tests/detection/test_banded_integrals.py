"""Photos too large for integral images of all pixels: the same faces, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hostile_files import memory_below
from skimage import data
from slow_cases import slow

from sfplus.detection import Detector, banded_integrals
from sfplus.detection.banded_imresample import BandedMatlabIntegralImages
from sfplus.detection.banded_integrals import BandedIntegralImages
from sfplus.detection.imresample import MatlabIntegralImages
from sfplus.detection.integral_images import IntegralImages
from sfplus.device import choose_device


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banded_integrals, "_PART", 2_000)


@pytest.mark.parametrize(
    "settings",
    [
        slow({}),
        slow({"parity": "facenet-pytorch"}),
        {"min_face": 40, "factor": 0.709},
        slow({"parity": "matlab", "min_face": 40}),
    ],
)
def test_faces_are_the_same_to_the_bit(settings: dict[str, object]) -> None:
    astronaut = data.astronaut()
    photos = [
        astronaut[:256, 100:356], astronaut[20:220, 120:330], astronaut[20:170, 150:290],  # faces at the border
        np.tile(astronaut[20:220, 130:310], (1, 2, 1)), astronaut[:40, :300], astronaut[:5, :5],
    ]  # fmt: skip
    photos = [np.ascontiguousarray(photo) for photo in photos]
    whole, banded = (Detector(device="cpu", **settings) for _ in range(2))  # type: ignore[arg-type]
    banded.sizes = banded.sizes._replace(banded=1)
    for expected, faces in zip(whole.detect(photos), banded.detect(photos), strict=True):
        assert len(expected) == len(faces)
        for name in ("boxes", "scores", "landmarks"):
            assert getattr(expected, name).tobytes() == getattr(faces, name).tobytes()
    assert len(whole.detect(photos[0])) == 1


def test_large_photos_take_little_memory_with_parity_matlab() -> None:
    with memory_below(60):  # 512 MB without bands
        BandedMatlabIntegralImages([np.zeros((4000, 4000, 3), np.uint8)], choose_device("cpu"))


def test_rows_of_a_few_large_rectangles_take_little_memory() -> None:
    sums = BandedIntegralImages([np.zeros((6000, 6000, 3), np.uint8)], choose_device("cpu"))
    with memory_below(30):  # a row of 12 rectangles covers 3 megapixels
        sums.crop_and_resize(torch.tensor([0]), torch.tensor([[0, 0, 6000, 6000]]), 12)


@pytest.mark.parametrize(
    "kinds",
    [(IntegralImages, BandedIntegralImages), (MatlabIntegralImages, BandedMatlabIntegralImages)],
    ids=["areas", "matlab"],
)
def test_regions_of_any_size_and_position_have_the_same_means(kinds: tuple[type[IntegralImages], ...]) -> None:
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((90, 140), (33, 20), (128, 192), (300, 7))]
    device = choose_device("cpu")
    for squeeze in (False, True):
        whole, banded = (kind(photos, device, squeeze) for kind in kinds)
        ids = torch.from_numpy(rng.integers(0, 4, 300))
        corners = torch.from_numpy(rng.integers(-60, 200, (300, 2)).astype(np.float32))
        boxes = torch.cat([corners, corners + torch.from_numpy(rng.integers(0, 150, (300, 2)).astype(np.float32))], 1)
        regions = whole.regions(ids, boxes)
        assert torch.equal(regions, banded.regions(ids, boxes))
        ids, regions = ids[whole.touches(ids, boxes)], regions[whole.touches(ids, boxes)]
        for mirrored in (False, True):
            first, second = (sums.crop_and_resize(ids, regions, 24, mirrored) for sums in (whole, banded))
            assert torch.equal(first, second) and first.stride() == second.stride()
