from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfplus.datasets import crops as module
from sfplus.datasets.crops import CropDataset
from sfplus.errors import DatasetError, PhotoError


def write(folder: Path, count: int, height: int = 6, width: int = 5) -> tuple[list[Path], np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    paths = [folder / f"crop {index}.png" for index in range(count)]
    for path, crop in zip(paths, pixels, strict=True):
        Image.fromarray(crop).save(path)
    return paths, pixels


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_batches_have_the_pixels_of_the_files(tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_BYTES", limit)
    paths, pixels = write(tmp_path, 7)
    crops = CropDataset(paths, [3, 1, 4, 1, 5, 9, 2], 6, 5)
    assert len(crops) == 7
    indices = np.array([6, 0, 0, 3])
    for _ in range(2):  # decoded, then from memory
        batch, labels = crops.batch(indices)
        np.testing.assert_array_equal(batch.numpy(), pixels[indices])
        assert labels.tolist() == [2, 3, 3, 1] and labels.dtype == torch.int64
        batch.zero_()  # what a caller does to a batch must not reach the memory
    crop, label = crops[-2]
    np.testing.assert_array_equal(crop.numpy(), pixels[5])
    assert label == 9
    with pytest.raises(IndexError):
        crops[7]


def test_small_set_is_decoded_once(tmp_path: Path) -> None:
    paths, pixels = write(tmp_path, 3)
    crops = CropDataset(paths, [0, 1, 2], 6, 5)
    crops.batch(np.arange(3))
    for path in paths:
        path.unlink()
    np.testing.assert_array_equal(crops.batch(np.arange(3))[0].numpy(), pixels)


def test_wrong_size_names_the_file(tmp_path: Path) -> None:
    paths, _ = write(tmp_path, 2)
    Image.new("RGB", (9, 8)).save(paths[1])
    crops = CropDataset(paths, [0, 1], 6, 5)
    crops.batch(np.array([0]))
    with pytest.raises(DatasetError, match=r"crop 1\.png: is 8x9 pixels, not 6x5; align"):
        crops.batch(np.array([0, 1]))


def test_damaged_crop_names_the_file(tmp_path: Path) -> None:
    paths, _ = write(tmp_path, 2)
    paths[0].write_bytes(paths[0].read_bytes()[:40])
    with pytest.raises(PhotoError, match=r"crop 0\.png"):
        CropDataset(paths, [0, 1], 6, 5).batch(np.array([1, 0]))


@pytest.mark.parametrize("labels", [[], [0], [0, 1, 2], [0, -1]])
def test_invalid_labels_are_refused(tmp_path: Path, labels: list[int]) -> None:
    paths, _ = write(tmp_path, 2)
    with pytest.raises(DatasetError, match="2 crops with"):
        CropDataset(paths, labels, 6, 5)


def test_empty_set_is_refused() -> None:
    with pytest.raises(DatasetError, match="0 crops"):
        CropDataset([], [], 6, 5)
