from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transcriptions import counted, drawn, evaluated, searched

from sfplus.errors import PairsError
from sfplus.verification.protocols import (
    Result,
    _accuracy,
    _best_threshold,
    sphereface,
)


@pytest.mark.parametrize(("seed", "offset"), [(0, 0.0), (1, 3.0), (2, 1e4)])
def test_equals_the_original_written_out_with_loops(seed: int, offset: float) -> None:
    data = drawn(seed, offset=offset)
    ours, original = sphereface(*data), evaluated(*data)  # type: ignore[arg-type]
    assert np.array_equal(ours.accuracy, original.accuracy)
    np.testing.assert_allclose(ours.threshold, original.threshold, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.scores, original.scores, rtol=0, atol=1e-10)


ADVERSARIAL = {
    "constant": ([0.5] * 8, [1, 0] * 4),
    "one": ([1.0] * 8, [1, 0] * 4),
    "minus one": ([-1.0] * 8, [1, 0] * 4),
    "ties on the grid": ([0.1, 0.1, 0.2, 0.2, 0.3, 0.3, -0.1, -0.1], [1, 0] * 4),
    "ties between the grid": ([0.10005, 0.10005, 0.2, 0.2, 0.30005, 0.30005], [1, 0, 1, 0, 1, 0]),
    "upside down": ([-0.9, -0.8, 0.8, 0.9], [1, 1, 0, 0]),
    "apart": ([0.9, 0.8, -0.8, -0.9], [1, 1, 0, 0]),
    "two best ranges": ([0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1]),
    "only same": ([0.1, 0.2, 0.3], [1, 1, 1]),
    "only different": ([0.1, 0.2, 0.3], [0, 0, 0]),
    "outside the grid": ([1 + 1e-12, -1 - 1e-12, 0.0], [1, 0, 1]),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_threshold_of_adversarial_scores(name: str) -> None:
    scores, same = np.array(ADVERSARIAL[name][0]), np.array(ADVERSARIAL[name][1], bool)
    assert _best_threshold(scores, same) == pytest.approx(searched(scores, same), abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-10, 10), st.booleans()), min_size=1, max_size=30),
    st.lists(st.integers(-40, 40), min_size=1, max_size=20),
)
def test_accuracy_equals_counting_to_the_last_pair(pairs: list[tuple[int, bool]], thresholds: list[int]) -> None:
    scores, same = np.array([p[0] / 10 for p in pairs]), np.array([p[1] for p in pairs])
    thresholds.sort()
    accuracy = _accuracy(scores, same, np.array(thresholds) / 40)
    assert accuracy.tolist() == [counted(scores, same, t / 40) / len(pairs) for t in thresholds]


def test_statistics_and_round_trip() -> None:
    result = sphereface(*drawn(4, folds=4))
    assert result.mean == pytest.approx(sum(result.accuracy) / 4)
    assert result.std == pytest.approx((sum((a - result.mean) ** 2 for a in result.accuracy) / 3) ** 0.5)
    assert result.standard_error == pytest.approx(result.std / 2)
    assert result.correct.mean() == pytest.approx(result.mean)
    data = json.loads(json.dumps(result.to_dict()))
    again = Result.from_dict(data)
    assert again.to_dict() == data
    assert np.array_equal(again.correct, result.correct)


def test_released_sphereface_table_gives_its_published_mean() -> None:
    folds = np.array([99.33, 99.17, 98.83, 99.50, 99.17, 99.83, 99.17, 98.83, 99.83, 99.33]) / 100  # README, 99.30 %
    result = Result("sphereface", folds, folds, folds, folds > 0, np.arange(10))
    assert f"{100 * result.mean:.2f}" == "99.30"


def test_scale_and_common_offset_change_nothing() -> None:
    left, right, same, fold = drawn(5)
    plain, moved = sphereface(left, right, same, fold), sphereface(7 * left + 1, 7 * right + 1, same, fold)
    np.testing.assert_allclose(plain.scores, moved.scores, atol=1e-12)
    assert np.array_equal(plain.accuracy, moved.accuracy)


def test_float32_features_are_computed_in_double() -> None:
    left, right, same, fold = drawn(6)
    low, high = left.astype(np.float32), right.astype(np.float32)
    ours = sphereface(low, high, same, fold)
    assert np.array_equal(ours.scores, sphereface(low.astype(np.float64), high.astype(np.float64), same, fold).scores)
    assert np.array_equal(left, drawn(6)[0]), "the caller's features were changed"


def test_bad_features_are_counted_and_the_first_is_named() -> None:
    left, right, same, fold = drawn(7)
    broken = right.copy()
    broken[[5, 9], 2] = np.nan
    broken[12] = np.inf
    with pytest.raises(PairsError, match=r"3 of 36 right features hold NaN or infinity, the first in pair 5"):
        sphereface(left, broken, same, fold)
    with pytest.raises(PairsError, match=r"36 of 36 left features equal the mean feature, the first in pair 0"):
        sphereface(np.full_like(left, 0.1), np.full_like(left, 0.1), same, fold)
    others = np.flatnonzero(fold != 0)
    left[fold == 0] = 0
    left[np.flatnonzero(fold == 0)[3]] = (left[others].sum(0) + right[others].sum(0)) / (2 * len(others))
    with pytest.raises(PairsError, match="1 of 36 left features equal the mean feature"):
        sphereface(left, right, same, fold)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fold": np.zeros(36, int)}, "at least 2 folds"),
        ({"fold": np.arange(36) % 2 * 2}, "numbered 0, 1, 2"),
        ({"fold": np.arange(36) % 2 - 1}, "numbered 0, 1, 2"),
        ({"fold": np.arange(35) % 2}, "do not fit"),
        ({"same": np.ones(36, bool)}, "both pairs"),
        ({"same": np.arange(36) % 3 == 0, "fold": np.arange(36) % 3}, "folds other than 0"),
        ({"left": np.zeros((36, 5))}, "do not fit"),
        ({"left": np.zeros(36)}, r"must be \(P, d\)"),
    ],
)
def test_wrong_pairs_are_refused(change: dict[str, NDArray[np.generic]], words: str) -> None:
    arguments = dict(zip(("left", "right", "same", "fold"), drawn(8), strict=True)) | change
    with pytest.raises(PairsError, match=words):
        sphereface(**arguments)  # type: ignore[arg-type]


def test_lfw_size_takes_under_a_second() -> None:
    left, right, same, fold = drawn(9, pairs=6000, width=1024, folds=10)
    start = time.process_time()
    result = sphereface(left, right, same, fold)
    assert time.process_time() - start < 1
    assert len(result.accuracy) == 10
