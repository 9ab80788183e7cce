"""`sfplus unpack` writes the crops of an insightface `.bin` file."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfplus.images import encode_image, read_photo


@pytest.fixture
def packed(tmp_path: Path) -> tuple[Path, list[np.ndarray]]:
    """Write a set of 8 crops and 4 pairs; each crop has one grey level and a bright column at 8."""
    crops = []
    for i in range(8):
        crop = np.full((112, 112, 3), 20 * i, np.uint8)
        crop[:, 8] = 255
        crops.append(crop)
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps(([encode_image(crop, ".png") for crop in crops], [True, False] * 2)))
    return path, crops


def test_crops_are_written_unchanged_or_narrowed(
    packed: tuple[Path, list[np.ndarray]], sfplus: Callable[..., Any], tmp_path: Path
) -> None:
    path, crops = packed
    assert sfplus("unpack", path, tmp_path / "wide").out == f"8 photos in {tmp_path / 'wide'}\n"
    assert sfplus("unpack", path, tmp_path / "narrow", "--narrow").code == 0
    for i, crop in enumerate(crops):
        np.testing.assert_array_equal(read_photo(tmp_path / "wide" / f"{i:05}.png"), crop)
        narrow = read_photo(tmp_path / "narrow" / f"{i:05}.png")
        np.testing.assert_array_equal(narrow, crop[:, 8:104])
        assert (narrow[:, 0] == 255).all()


@pytest.mark.slow
def test_unpacked_crops_are_embedded_and_verified(
    packed: tuple[Path, list[np.ndarray]], sfplus: Callable[..., Any], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    crops = [rng.integers(0, 256, (112, 112, 3)).astype(np.uint8) for _ in range(80)]
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps(([encode_image(crop, ".png") for crop in crops], [True, False] * 20)))
    assert sfplus("unpack", path, "crops", "--narrow").code == 0
    assert sfplus("embed", "crops", "features", "--crops").code == 0
    answer = sfplus(
        "verify", "--features", "features/features.safetensors", "--pairs", path, "--mirrored", "--out", "report"
    )
    assert answer.code == 0 and "sphereface protocol" in answer.out, answer.err
    assert (tmp_path / "report" / "report.html").is_file()


def test_pickled_code_and_other_sizes_are_refused(sfplus: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "bad.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    answer = sfplus("unpack", tmp_path / "bad.bin", tmp_path / "out")
    assert answer.code == 1 and answer.err.count("\n") == 1
    small = encode_image(np.zeros((64, 64, 3), np.uint8), ".png")
    (tmp_path / "small.bin").write_bytes(pickle.dumps(([small, small], [True])))
    answer = sfplus("unpack", tmp_path / "small.bin", tmp_path / "out", "--narrow")
    assert answer.code == 1 and "64x64, not 112x112" in answer.err


def test_results_of_another_command_are_not_replaced(
    packed: tuple[Path, list[np.ndarray]], sfplus: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "out/.sfplus").mkdir(parents=True)
    (tmp_path / "out/00000.png").write_bytes(b"a crop of align")
    answer = sfplus("unpack", packed[0], tmp_path / "out")
    assert answer.code == 2 and "holds the results of another command; choose another OUT" in answer.err
    assert (tmp_path / "out/00000.png").read_bytes() == b"a crop of align"
