"""The other protocols against transcriptions of theirs, and what all protocols have in common."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve
from transcriptions import Floats, best_by_trying, drawn, evaluated, evaluated_exact, evaluated_insightface, unit_sums

from sfplus.errors import PairsError
from sfplus.verification.protocols import (
    PROTOCOLS,
    Result,
    _exact_threshold,
    exact,
    insightface,
    opensphere,
    sphereface,
)

NAMES = list(PROTOCOLS)


def axes(seed: int, pairs: int = 24, folds: int = 3) -> tuple[Floats, ...]:
    """Features along axes, of lengths that are powers of two, each pair with its opposite in one fold.

    So every mean is 0, all scores are exactly -1, 0 or 1, and every threshold search is full of ties.
    """
    rng = np.random.default_rng(seed)
    left, right = np.eye(3)[rng.integers(3, size=(2, pairs // 2))] * 2.0 ** rng.integers(-3, 4, (2, pairs // 2, 1))
    right *= rng.choice([-1, 1], (pairs // 2, 1))
    fold = np.arange(pairs) % (pairs // 2) % folds
    same = np.concatenate([rng.permutation(np.arange(pairs // 2) % 2 == 0)] * 2)
    return np.concatenate([left, -left]), np.concatenate([right, -right]), same, fold  # type: ignore[return-value]


def constant(seed: int) -> tuple[Floats, ...]:
    """All scores equal."""
    left, _, same, fold = axes(seed)
    return left, left * 4, same, fold  # type: ignore[return-value]


@pytest.mark.parametrize("make", [axes, constant])
@pytest.mark.parametrize("seed", range(4))
def test_ties_and_constants_equal_the_transcriptions_to_the_last_pair(
    make: Callable[[int], tuple[Floats, ...]], seed: int
) -> None:
    left, right, same, fold = make(seed)
    assert np.array_equal(sphereface(left, right, same, fold).accuracy, evaluated(left, right, same, fold).accuracy)  # type: ignore[arg-type]
    first, second = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (left, right))
    for protocol, loops in ((insightface, evaluated_insightface), (exact, evaluated_exact)):
        assert np.array_equal(protocol(left, right, same, fold).accuracy, loops(first, second, same, fold))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(4))
def test_random_features_equal_the_transcriptions_to_the_last_pair(seed: int) -> None:
    left, right, same, fold = drawn(seed, pairs=48, folds=4)
    first, second = unit_sums(left), unit_sums(right)
    for protocol, loops in ((insightface, evaluated_insightface), (exact, evaluated_exact)):
        result = protocol(left, right, same, fold, mirrored=True)
        assert np.array_equal(result.accuracy, loops(first, second, same, fold))  # type: ignore[arg-type]
        np.testing.assert_allclose(result.scores, (first * second).sum(1), atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_opensphere_is_the_best_point_of_the_roc(seed: int) -> None:
    left, right, same, fold = drawn(seed, pairs=40) if seed % 2 else axes(seed)
    result = opensphere(left, right, same, fold, mirrored=bool(seed % 2))
    far, tar, _ = roc_curve(same, result.scores)  # get_results in opensphere/dataset/utils.py
    n, positives = len(same), int(same.sum())
    assert result.mean == pytest.approx(max(tar * positives + (1 - far) * (n - positives)) / n, abs=1e-12)
    assert result.accuracy.shape == (1,) and not result.fold.any() and result.std == 0
    assert result.standard_error == pytest.approx((result.mean * (1 - result.mean) / n) ** 0.5)
    assert opensphere(left, right, same, np.zeros(n, int)).accuracy.shape == (1,), "it needs no folds"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=1, max_size=25))
def test_exact_threshold_equals_trying_them_all(pairs: list[tuple[int, bool]]) -> None:
    scores, same = np.array([p[0] / 4 for p in pairs]), np.array([p[1] for p in pairs])
    assert _exact_threshold(scores, same) == best_by_trying(scores, same)[0]


def test_exact_threshold_between_neighbouring_numbers() -> None:
    low = 0.5
    scores = np.array([low, np.nextafter(low, 1)])
    threshold = _exact_threshold(scores, np.array([False, True]))
    assert scores[0] < threshold <= scores[1]


@pytest.mark.parametrize("name", NAMES)
def test_every_result_names_its_protocol_and_agrees_with_its_decisions(name: str) -> None:
    for data in (drawn(11, folds=4), axes(1)):
        left, right, same, fold = data
        result = PROTOCOLS[name](left, right, same, fold, mirrored=left.shape[1] % 2 == 0)
        assert result.protocol == name
        shares = [result.correct[result.fold == k].mean() for k in range(len(result.accuracy))]
        np.testing.assert_allclose(result.accuracy, shares, rtol=0, atol=1e-15)
        again = Result.from_dict(json.loads(json.dumps(result.to_dict())))
        assert again.to_dict() == result.to_dict() and np.array_equal(again.correct, result.correct)


@pytest.mark.parametrize("name", NAMES)
def test_features_that_are_not_numbers_or_have_no_direction_are_refused(name: str) -> None:
    left, right, same, fold = drawn(7)
    for value, words in ((np.nan, "NaN or infinity"), (np.inf, "NaN or infinity")):
        broken = left.copy()
        broken[3, 1] = value
        with pytest.raises(PairsError, match=f"1 of 36 left features hold {words}, the first in pair 3"):
            PROTOCOLS[name](broken, right, same, fold)
    if name != "sphereface":
        broken = right.copy()
        broken[4] = 0
        with pytest.raises(PairsError, match="1 of 36 right features are zero, the first in pair 4"):
            PROTOCOLS[name](left, broken, same, fold)
        with pytest.raises(PairsError, match="features of 5 numbers are not those of a photo and its mirror image"):
            PROTOCOLS[name](left[:, :5], right[:, :5], same, fold, mirrored=True)


@pytest.mark.parametrize("name", ["sphereface", "insightface", "exact"])
def test_pairs_that_are_only_trained_on(name: str) -> None:
    left, right, same, fold = drawn(12, pairs=60, folds=3)
    whole = PROTOCOLS[name](left, right, same, fold)
    view_1 = np.where(fold == 0, 0, -1 - fold)  # fold 0 is tested, the others choose the threshold
    one = PROTOCOLS[name](left, right, same, view_1)
    assert one.accuracy.tolist() == whole.accuracy[:1].tolist() and one.threshold[0] == whole.threshold[0]
    np.testing.assert_allclose(one.scores, whole.scores[fold == 0], atol=1e-15)
    assert not one.fold.any() and np.array_equal(one.same, same[fold == 0])
    more = PROTOCOLS[name](*(np.concatenate([a, a]) for a in (left, right, same)), np.concatenate([fold, -1 - fold]))
    assert more.accuracy.tolist() == whole.accuracy.tolist(), "the same pairs twice teach nothing new"


def test_cosine_protocols_ignore_lengths_and_sphereface_does_not_know_mirrors() -> None:
    left, right, same, fold = drawn(13)
    length = np.random.default_rng(0).uniform(0.1, 9, (36, 1))
    for name in NAMES[1:]:
        plain = PROTOCOLS[name](left, right, same, fold, mirrored=True)
        scaled = PROTOCOLS[name](left * length, right, same, fold, mirrored=True)
        np.testing.assert_allclose(plain.scores, scaled.scores, atol=1e-12)
    ours = sphereface(left, right, same, fold, mirrored=True)
    assert np.array_equal(ours.scores, sphereface(left, right, same, fold).scores)
