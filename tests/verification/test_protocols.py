"""Each protocol against a transcription of the original code, and the properties that all protocols share."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve
from transcriptions import (
    Floats,
    count_correct,
    evaluate_exact,
    evaluate_insightface,
    evaluate_sphereface,
    random_pairs,
    search_threshold,
    try_thresholds,
    unit_sums,
)

from sfplus.verification.protocols import (
    PROTOCOLS,
    ProtocolName,
    _accuracy,
    _exact_threshold,
    _grid_threshold,
    exact,
    insightface,
    opensphere,
    sphereface,
)
from sfplus.verification.result import Result

NAMES = list(PROTOCOLS)


def axis_pairs(seed: int, pairs: int = 24, folds: int = 3) -> tuple[Floats, ...]:
    """Features along axes, with lengths that are powers of two, and the negative of each pair in the same fold.

    Every mean is therefore 0, all scores are exactly -1, 0 or 1, and every threshold search is full of ties.
    """
    rng = np.random.default_rng(seed)
    left, right = np.eye(3)[rng.integers(3, size=(2, pairs // 2))] * 2.0 ** rng.integers(-3, 4, (2, pairs // 2, 1))
    right *= rng.choice([-1, 1], (pairs // 2, 1))
    fold = np.arange(pairs) % (pairs // 2) % folds
    same = np.concatenate([rng.permutation(np.arange(pairs // 2) % 2 == 0)] * 2)
    return np.concatenate([left, -left]), np.concatenate([right, -right]), same, fold  # type: ignore[return-value]


def constant_pairs(seed: int) -> tuple[Floats, ...]:
    """Pairs with equal scores."""
    left, _, same, fold = axis_pairs(seed)
    return left, left * 4, same, fold  # type: ignore[return-value]


@pytest.mark.parametrize(("seed", "offset"), [(0, 0.0), (1, 3.0), (2, 1e4)])
def test_sphereface_equals_the_original_with_its_loops(seed: int, offset: float) -> None:
    data = random_pairs(seed, offset=offset)
    ours, original = sphereface(*data), evaluate_sphereface(*data)  # type: ignore[arg-type]
    assert np.array_equal(ours.accuracy, original.accuracy)
    np.testing.assert_allclose(ours.threshold, original.threshold, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.scores, original.scores, rtol=0, atol=1e-10)


@pytest.mark.parametrize("make", [axis_pairs, constant_pairs])
@pytest.mark.parametrize("seed", range(4))
def test_ties_and_constants_are_decided_as_by_the_transcriptions(
    make: Callable[[int], tuple[Floats, ...]], seed: int
) -> None:
    left, right, same, fold = make(seed)
    original = evaluate_sphereface(left, right, same, fold)  # type: ignore[arg-type]
    assert np.array_equal(sphereface(left, right, same, fold).accuracy, original.accuracy)
    first, second = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (left, right))
    for protocol, evaluate in ((insightface, evaluate_insightface), (exact, evaluate_exact)):
        assert np.array_equal(protocol(left, right, same, fold).accuracy, evaluate(first, second, same, fold))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(4))
def test_random_features_are_decided_as_by_the_transcriptions(seed: int) -> None:
    left, right, same, fold = random_pairs(seed, pairs=48, folds=4)
    first, second = unit_sums(left), unit_sums(right)
    for protocol, evaluate in ((insightface, evaluate_insightface), (exact, evaluate_exact)):
        result = protocol(left, right, same, fold, mirrored=True)
        assert np.array_equal(result.accuracy, evaluate(first, second, same, fold))  # type: ignore[arg-type]
        np.testing.assert_allclose(result.scores, (first * second).sum(1), atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_opensphere_is_the_best_point_of_the_roc(seed: int) -> None:
    left, right, same, fold = random_pairs(seed, pairs=40) if seed % 2 else axis_pairs(seed)
    result = opensphere(left, right, same, fold, mirrored=bool(seed % 2))
    far, tar, _ = roc_curve(same, result.scores)  # get_results in opensphere/dataset/utils.py
    n, positives = len(same), int(same.sum())
    assert result.mean == pytest.approx(max(tar * positives + (1 - far) * (n - positives)) / n, abs=1e-12)
    assert result.accuracy.shape == (1,) and not result.fold.any() and result.std == 0
    assert result.standard_error == pytest.approx((result.mean * (1 - result.mean) / n) ** 0.5)
    assert opensphere(left, right, same, np.zeros(n, int)).accuracy.shape == (1,), "it needs no folds"


ADVERSARIAL = {
    "constant": ([0.5] * 8, [1, 0] * 4),
    "one": ([1.0] * 8, [1, 0] * 4),
    "minus one": ([-1.0] * 8, [1, 0] * 4),
    "ties on the grid": ([0.1, 0.1, 0.2, 0.2, 0.3, 0.3, -0.1, -0.1], [1, 0] * 4),
    "ties between the grid": ([0.10005, 0.10005, 0.2, 0.2, 0.30005, 0.30005], [1, 0, 1, 0, 1, 0]),
    "inverted": ([-0.9, -0.8, 0.8, 0.9], [1, 1, 0, 0]),
    "separated": ([0.9, 0.8, -0.8, -0.9], [1, 1, 0, 0]),
    "two best ranges": ([0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1]),
    "only same": ([0.1, 0.2, 0.3], [1, 1, 1]),
    "only different": ([0.1, 0.2, 0.3], [0, 0, 0]),
    "outside the grid": ([1 + 1e-12, -1 - 1e-12, 0.0], [1, 0, 1]),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_grid_threshold_of_adversarial_scores(name: str) -> None:
    scores, same = np.array(ADVERSARIAL[name][0]), np.array(ADVERSARIAL[name][1], bool)
    assert _grid_threshold(scores, same) == pytest.approx(search_threshold(scores, same), abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-10, 10), st.booleans()), min_size=1, max_size=30),
    st.lists(st.integers(-40, 40), min_size=1, max_size=20),
)
def test_accuracy_equals_counting_pair_by_pair(pairs: list[tuple[int, bool]], thresholds: list[int]) -> None:
    scores, same = np.array([p[0] / 10 for p in pairs]), np.array([p[1] for p in pairs])
    thresholds.sort()
    accuracy = _accuracy(scores, same, np.array(thresholds) / 40)
    assert accuracy.tolist() == [count_correct(scores, same, t / 40) / len(pairs) for t in thresholds]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=1, max_size=25))
def test_exact_threshold_equals_trying_all(pairs: list[tuple[int, bool]]) -> None:
    scores, same = np.array([p[0] / 4 for p in pairs]), np.array([p[1] for p in pairs])
    assert _exact_threshold(scores, same) == try_thresholds(scores, same)[0]


def test_exact_threshold_separates_neighbouring_floats() -> None:
    low = 0.5
    scores = np.array([low, np.nextafter(low, 1)])
    threshold = _exact_threshold(scores, np.array([False, True]))
    assert scores[0] < threshold <= scores[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_result_names_its_protocol_and_agrees_with_its_decisions(name: str) -> None:
    for data in (random_pairs(11, folds=4), axis_pairs(1)):
        left, right, same, fold = data
        result = PROTOCOLS[name](left, right, same, fold, mirrored=left.shape[1] % 2 == 0)
        assert result.protocol == name
        shares = [result.correct[result.fold == k].mean() for k in range(len(result.accuracy))]
        np.testing.assert_allclose(result.accuracy, shares, rtol=0, atol=1e-15)
        restored = Result.from_dict(json.loads(json.dumps(result.to_dict())))
        assert restored.to_dict() == result.to_dict() and np.array_equal(restored.correct, result.correct)


@pytest.mark.parametrize("name", ["sphereface", "insightface", "exact"])
def test_pairs_that_only_help_to_choose_thresholds(name: str) -> None:
    left, right, same, fold = random_pairs(12, pairs=60, folds=3)
    complete = PROTOCOLS[name](left, right, same, fold)
    view_1 = np.where(fold == 0, 0, -1 - fold)  # fold 0 is tested, the others choose the threshold
    single = PROTOCOLS[name](left, right, same, view_1)
    assert single.accuracy.tolist() == complete.accuracy[:1].tolist() and single.threshold[0] == complete.threshold[0]
    np.testing.assert_allclose(single.scores, complete.scores[fold == 0], atol=1e-15)
    assert not single.fold.any() and np.array_equal(single.same, same[fold == 0])
    twice = PROTOCOLS[name](*(np.concatenate([a, a]) for a in (left, right, same)), np.concatenate([fold, -1 - fold]))
    assert twice.accuracy.tolist() == complete.accuracy.tolist(), "repeated pairs change no threshold"


def test_cosine_protocols_ignore_lengths_and_sphereface_ignores_mirroring() -> None:
    left, right, same, fold = random_pairs(13)
    length = np.random.default_rng(0).uniform(0.1, 9, (36, 1))
    for name in NAMES[1:]:
        plain = PROTOCOLS[name](left, right, same, fold, mirrored=True)
        scaled = PROTOCOLS[name](left * length, right, same, fold, mirrored=True)
        np.testing.assert_allclose(plain.scores, scaled.scores, atol=1e-12)
    ours = sphereface(left, right, same, fold, mirrored=True)
    assert np.array_equal(ours.scores, sphereface(left, right, same, fold).scores)


def test_sphereface_ignores_scale_and_a_common_offset() -> None:
    left, right, same, fold = random_pairs(5)
    plain, moved = sphereface(left, right, same, fold), sphereface(7 * left + 1, 7 * right + 1, same, fold)
    np.testing.assert_allclose(plain.scores, moved.scores, atol=1e-12)
    assert np.array_equal(plain.accuracy, moved.accuracy)


def test_float32_features_are_computed_in_float64() -> None:
    left, right, same, fold = random_pairs(6)
    left_32, right_32 = left.astype(np.float32), right.astype(np.float32)
    ours = sphereface(left_32, right_32, same, fold)
    expected = sphereface(left_32.astype(np.float64), right_32.astype(np.float64), same, fold)
    assert np.array_equal(ours.scores, expected.scores)
    assert np.array_equal(left, random_pairs(6)[0]), "the caller's features were changed"


def test_settings_accept_the_registered_names_only() -> None:
    class Settings(pydantic.BaseModel):
        protocol: ProtocolName = "sphereface"

    assert NAMES == ["sphereface", "insightface", "opensphere", "exact"]
    assert [Settings(protocol=name).protocol for name in NAMES] == NAMES
    with pytest.raises(pydantic.ValidationError, match="'sphereface', 'insightface', 'opensphere' or 'exact'"):
        Settings(protocol="lfw")


@pytest.mark.slow
def test_lfw_size_takes_under_a_second() -> None:
    left, right, same, fold = random_pairs(9, pairs=6000, width=1024, folds=10)
    start = time.process_time()
    result = sphereface(left, right, same, fold)
    assert time.process_time() - start < 1
    assert len(result.accuracy) == 10
