from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import data

from sfplus.alignment import fit_similarity, warp
from sfplus.alignment.batched_warp import warp_batch
from sfplus.errors import UsageError

PHOTO = data.astronaut()
LANDMARKS = np.array([[203.0, 103], [246, 107], [225, 132], [203, 146], [238, 150]])


@pytest.mark.parametrize("border", ["black", "replicate"])
def test_a_batch_gives_the_crops_of_opencv(border: str) -> None:
    photos = np.stack([PHOTO, PHOTO[::-1], PHOTO[:, ::-1]])
    matrices = fit_similarity(np.stack([LANDMARKS, LANDMARKS + 40, LANDMARKS * 1.3 - 200]), "arcface-112x112")
    crops = warp_batch(torch.from_numpy(photos.transpose(0, 3, 1, 2).copy()), matrices, "arcface-112x112", border)  # type: ignore[arg-type]
    assert crops.shape == (3, 3, 112, 112) and crops.dtype == torch.uint8
    for photo, matrix, crop in zip(photos, matrices, crops, strict=True):
        expected = warp(np.ascontiguousarray(photo), matrix, "arcface-112x112", border=border).astype(float)  # type: ignore[arg-type]
        assert abs(crop.permute(1, 2, 0).numpy() - expected).mean() < 0.6


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match=r"expected \(N, 3, H, W\)"):
        warp_batch(torch.zeros(2, 3, 9, 9), np.zeros((1, 2, 3)))
    with pytest.raises(UsageError, match="border"):
        warp_batch(torch.zeros(1, 3, 9, 9), np.eye(3)[None, :2], border="mirror")  # type: ignore[arg-type]
