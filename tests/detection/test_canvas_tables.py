"""The tables by NumPy and by torch have the same numbers; test_pyramid.py compares what is drawn with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_cuda import fake_cuda
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sfplus.detection.canvas_tables import tables_on_device, tables_on_host
from sfplus.detection.pyramid_plan import Piece, Plan, plan_pyramid

CPU = torch.device("cpu")


def check(plan: Plan, height: int, width: int, device: torch.device) -> None:
    for index in range(len(plan.canvases)):
        expected = tables_on_host(plan, index, height, width)
        assert [table.dtype for table in expected] == [torch.int32, torch.float32, torch.int32]
        for table, values in zip(tables_on_device(plan, index, height, width, device), expected, strict=True):
            assert table.device.type == device.type and table.dtype == values.dtype
            np.testing.assert_array_equal(table.cpu().numpy(), values.numpy())


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(20, 300), width=st.integers(20, 300), factor=st.floats(0.3, 0.9),
    canvas_pixels=st.sampled_from([1500, 1 << 17]), matlab=st.booleans(),
)  # fmt: skip
@example(height=20, width=20, factor=0.85, canvas_pixels=1500, matlab=False)
@example(height=21, width=1000, factor=0.7, canvas_pixels=1500, matlab=False)
def test_torch_gives_the_numbers_of_numpy(
    height: int, width: int, factor: float, canvas_pixels: int, matlab: bool
) -> None:
    check(plan_pyramid(height, width, 20, factor, matlab, canvas_pixels), height, width, CPU)


@pytest.mark.parametrize(("height", "width"), [(250, 250), (33, 1000), (480, 640), (1080, 1920)])
def test_a_device_gives_the_numbers_of_numpy(device: torch.device, height: int, width: int) -> None:
    check(plan_pyramid(height, width, 30, 0.7, max_pixels=1 << 17), height, width, device)


@pytest.mark.slow
def test_products_beyond_32_bits_do_not_overflow() -> None:
    piece = Piece(0, 0, 0, 13, 240_001, 0, 0)
    plan = Plan([(13, 240_001)], [0.6], [(14, 240_002, [piece])])
    check(plan, 20, 400_000, CPU)
    corners, _, _ = tables_on_host(plan, 0, 20, 400_000)
    assert corners.min() >= 0 and int(corners.max()) == 20 * 400_001 + 400_000


@pytest.mark.slow
def test_a_gpu_makes_the_tables_without_waiting() -> None:
    plan = plan_pyramid(250, 250, 20, 0.85)
    with fake_cuda():
        tables = tables_on_device(plan, 0, 250, 250, torch.device("cuda"))
        assert all(table.is_cuda for table in tables)
