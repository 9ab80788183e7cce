from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import mannwhitneyu, norm
from sklearn.metrics import det_curve, roc_auc_score, roc_curve

from sfplus.errors import PairsError
from sfplus.verification.curves import auc, det, eer, roc, smallest_far, tar_at_far

SAME = np.array([True, True, True, False, False, False])


def gaussian(distance: float, pairs: int = 40000) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return scores at the quantiles of two unit Gaussians at a distance, for which every rate has a closed form."""
    quantiles = norm.ppf((np.arange(pairs) + 0.5) / pairs)
    return np.concatenate([quantiles + distance, quantiles]), np.repeat([True, False], pairs)


def test_roc_counts_every_threshold() -> None:
    rng = np.random.default_rng(0)
    scores, same = rng.integers(0, 9, 60) / 8, rng.random(60) < 0.4
    far, tar, thresholds = roc(scores, same)
    for f, t, threshold in zip(far, tar, thresholds, strict=True):
        assert f == np.mean(scores[~same] >= threshold)
        assert t == np.mean(scores[same] >= threshold)
    assert (far[0], tar[0], far[-1], tar[-1]) == (0, 0, 1, 1)
    assert len(far) == 1 + len(np.unique(scores))


def test_auc_is_the_mann_whitney_statistic() -> None:
    rng = np.random.default_rng(1)
    scores, same = rng.integers(0, 20, 200) / 8, rng.random(200) < 0.5
    expected = mannwhitneyu(scores[same], scores[~same]).statistic / (same.sum() * (~same).sum())
    assert auc(scores, same) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("distance", [0.5, 1.0, 3.0])
def test_gaussian_scores_have_closed_forms(distance: float) -> None:
    scores, same = gaussian(distance)
    assert eer(scores, same) == pytest.approx(norm.cdf(-distance / 2), abs=1e-4)
    assert auc(scores, same) == pytest.approx(norm.cdf(distance / 2**0.5), abs=1e-4)
    assert tar_at_far(scores, same, 0.01) == pytest.approx(norm.sf(norm.isf(0.01) - distance), abs=2e-4)


def test_eer_is_the_crossing_of_a_root_finder() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        same = rng.random(50) < 0.5
        scores = rng.integers(0, 12, 50) + 3.0 * same
        far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
        path = np.linspace(0, 1, len(far))
        middle = brentq(lambda x: np.interp(x, path, far) + np.interp(x, path, tar) - 1, 0, 1)  # noqa: B023
        assert eer(scores, same) == pytest.approx(np.interp(middle, path, far), abs=1e-9)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([3, 4, 5, 0, 1, 2], 0.0), ([0, 1, 2, 3, 4, 5], 1.0), ([1, 1, 1, 1, 1, 1], 0.5), ([1, 3, 5, 0, 2, 4], 1 / 3)],
)
def test_eer_of_small_cases(scores: list[float], expected: float) -> None:
    assert eer(np.array(scores, float), SAME) == pytest.approx(expected)


def test_tar_at_far_of_a_small_case() -> None:
    scores = np.array([1, 3, 5, 0, 2, 4], float)
    assert tar_at_far(scores, SAME, 0.34) == pytest.approx(2 / 3)
    assert tar_at_far(scores, SAME, 0.9) == pytest.approx(1.0)
    assert tar_at_far(scores, SAME, 0.3) is None


def test_lfw_resolves_a_far_of_1e_3_but_not_of_1e_4() -> None:
    same = np.repeat([True, False], 3000)
    scores = np.arange(6000.0)[::-1]
    assert tar_at_far(scores, same, 1e-3) == 1.0
    assert tar_at_far(scores, same, 1 / 3000) == 1.0
    assert tar_at_far(scores, same, 1e-4) is None


def test_one_kind_of_pair_is_refused() -> None:
    with pytest.raises(PairsError):
        roc(np.zeros(3), np.ones(3, bool))


def test_det_contains_the_curve_of_scikit_learn() -> None:
    rng = np.random.default_rng(4)
    scores, same = rng.integers(0, 15, 80) / 8, rng.random(80) < 0.5
    far, frr, thresholds = det(scores, same)
    for point in zip(*det_curve(same, scores), strict=True):  # scikit-learn omits the ends of the curve
        assert np.isclose(np.stack([far, frr, thresholds], 1), point).all(1).any()
    assert auc(scores, same) == roc_auc_score(same, scores)


def test_tar_is_none_below_the_smallest_far() -> None:
    same = np.repeat([True, False], [10, 3000])
    scores = np.random.default_rng(5).normal(size=3010) + 3 * same
    assert smallest_far(same) == 1 / 3000
    assert tar_at_far(scores, same, smallest_far(same)) is not None
    assert tar_at_far(scores, same, 0.99 * smallest_far(same)) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_numbers_are_refused(bad: float) -> None:
    scores = np.array([1.0, bad, 0.5, 0.2, 0.1, 0.0])
    for rate in (roc, det, auc, eer, lambda *a: tar_at_far(*a, 0.5)):
        with pytest.raises(PairsError, match="1 score is NaN or infinity"):
            rate(scores, SAME)
