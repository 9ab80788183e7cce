from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_cuda import FakeTensorDeviceMismatchError, fake_cuda
from skimage import data

from sfplus.alignment import fit_similarity, warp
from sfplus.alignment.batched_warp import _to_grid, warp_batch
from sfplus.device import Device
from sfplus.errors import UsageError

PHOTO = data.astronaut()
LANDMARKS = np.array([[203.0, 103], [246, 107], [225, 132], [203, 146], [238, 150]])


@pytest.mark.parametrize("border", ["black", "replicate"])
def test_a_batch_gives_the_crops_of_opencv(border: str, device: torch.device) -> None:
    photos = np.stack([PHOTO, PHOTO[::-1], PHOTO[:, ::-1]])
    matrices = fit_similarity(np.stack([LANDMARKS, LANDMARKS + 40, LANDMARKS * 1.3 - 200]), "arcface-112x112")
    pixels = torch.from_numpy(photos.transpose(0, 3, 1, 2).copy()).to(device)
    crops = warp_batch(pixels, matrices, "arcface-112x112", border).cpu()  # type: ignore[arg-type]
    assert crops.shape == (3, 3, 112, 112) and crops.dtype == torch.uint8
    for photo, matrix, crop in zip(photos, matrices, crops, strict=True):
        expected = warp(np.ascontiguousarray(photo), matrix, "arcface-112x112", border=border).astype(float)  # type: ignore[arg-type]
        assert abs(crop.permute(1, 2, 0).numpy() - expected).mean() < 0.6


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match=r"expected \(N, 3, H, W\)"):
        warp_batch(torch.zeros(2, 3, 9, 9), np.zeros((1, 2, 3)))
    with pytest.raises(UsageError, match="border"):
        warp_batch(torch.zeros(1, 3, 9, 9), np.eye(3)[None, :2], border="mirror")  # type: ignore[arg-type]
    for matrix in (np.zeros((1, 2, 3)), np.full((1, 2, 3), np.nan), [[[1, 1, 0], [1, 1, 0]]]):
        with pytest.raises(UsageError, match="matrices: has no inverse"):
            warp_batch(torch.zeros(1, 3, 9, 9), matrix)


def test_no_photos_give_no_crops() -> None:
    assert warp_batch(torch.zeros(0, 3, 9, 9, dtype=torch.uint8), np.zeros((0, 2, 3))).shape == (0, 3, 112, 96)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_crops_stay_on_the_device(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """The matrices are inverted on the host, and the program does not wait for a GPU."""
    back = _to_grid(torch.from_numpy(fit_similarity(LANDMARKS[None], "arcface-112x112")), 90, 70)
    monkeypatch.setattr("sfplus.alignment.batched_warp._to_grid", lambda *_: torch.empty(back.shape, dtype=back.dtype))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # fake tensors cannot be pinned
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda tensor: True)
    with fake_cuda():
        photos = torch.empty(1, 3, 70, 90, dtype=dtype, device="cuda")
        crops = warp_batch(photos, torch.empty(1, 2, 3), "arcface-112x112")
        assert crops.is_cuda and crops.dtype == dtype
        monkeypatch.setattr(Device, "put", lambda device, tensor: tensor)
        with pytest.raises(FakeTensorDeviceMismatchError):
            warp_batch(photos, torch.empty(1, 2, 3), "arcface-112x112")
