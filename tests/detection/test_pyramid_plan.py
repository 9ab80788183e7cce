"""The plan of the pyramid against a packing that looks at each column, and against the levels' own sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from sfplus.detection import pyramid_plan
from sfplus.detection.pyramid_plan import Piece, plan_pyramid

Canvases = list[tuple[int, int, list[Piece]]]


def pack_by_columns(pieces: Sequence[Piece], width: int, max_pixels: int, fewer: float) -> Canvases | None:
    """Place each piece, highest first, at the leftmost of the highest places, over an array of all columns."""
    width += width % 2
    canvases: list[tuple[int, list[Piece]]] = []
    used = np.zeros(width // 2, np.int64)
    for piece in pieces:
        height, columns = piece.height + piece.height % 2, (piece.width + 1) // 2
        tops = sliding_window_view(used, columns).max(1)
        x = int(tops.argmin())
        y = int(tops[x])
        if not canvases or (y + height) * width > max(max_pixels, height * width):
            canvases.append((0, []))
            used[:], x, y = 0, 0, 0
        used[x : x + columns] = y + height
        canvases[-1] = (int(used.max()), [*canvases[-1][1], piece._replace(y=y, x=2 * x)])
    packed = [(height, width, placed) for height, placed in canvases]
    return packed if sum(height * width for height, width, _ in packed) < fewer else None


@settings(max_examples=80, deadline=None)
@given(
    height=st.integers(20, 400), width=st.integers(20, 400), factor=st.floats(0.3, 0.92),
    canvas_pixels=st.sampled_from([1500, 20_000, 1 << 17]), matlab=st.booleans(),
)  # fmt: skip
@example(height=20, width=20, factor=0.5, canvas_pixels=1500, matlab=False)
@example(height=1080, width=1920, factor=0.85, canvas_pixels=1 << 17, matlab=False)
def test_pieces_are_packed_as_by_columns(
    height: int, width: int, factor: float, canvas_pixels: int, matlab: bool
) -> None:
    plan = plan_pyramid(height, width, 20, factor, matlab, canvas_pixels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyramid_plan, "_pack", pack_by_columns)
        assert plan_pyramid(height, width, 20, factor, matlab, canvas_pixels) == plan


def test_photos_smaller_than_a_face_have_no_level() -> None:
    assert plan_pyramid(19, 500, 20, 0.85) == ([], [], [])
    assert len(plan_pyramid(20, 500, 20, 0.85).scales) == 1
    assert len(plan_pyramid(250, 250, 20, 0.85).scales) == 16


def test_a_panorama_is_planned_at_once() -> None:
    """The time does not grow with the number of columns: by columns, this takes half a minute."""
    assert len(plan_pyramid(20, 400_000, 20, 0.85).canvases) == 26


@pytest.mark.parametrize(("height", "width"), [(480, 640), (1080, 1920), (3000, 4000), (12_000, 8000), (20, 400_000)])
def test_canvases_of_large_photos_have_few_pixels_more_than_the_levels(height: int, width: int) -> None:
    plan = plan_pyramid(height, width, 20, 0.85)
    assert max(h * w for h, w, _ in plan.canvases) <= 1 << 17
    assert sum(h * w for h, w, _ in plan.canvases) < 1.08 * sum(h * w for h, w in plan.sides)
