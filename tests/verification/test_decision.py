from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save_file
from scipy.stats import beta
from sklearn.metrics import roc_curve
from sklearn.metrics.pairwise import cosine_similarity

from sfplus.errors import UsageError, WeightsError
from sfplus.verification.decision import DecisionRule, explain_similarity, similarity
from sfplus.weights import MEAN

VERIFICATION = {"threshold": 0.25, "accuracy": 0.9, "pairs": "200 pairs of pairs.txt", "protocol": "sphereface"}


def rule_of(same: np.ndarray, different: np.ndarray) -> DecisionRule:
    return DecisionRule(np.zeros(4, np.float32), np.sort(same), np.sort(different), VERIFICATION)


def random_rule(count: int = 200) -> DecisionRule:
    """A rule with random scores of both kinds."""
    rng = np.random.default_rng(0)
    return rule_of(rng.normal(0.5, 0.2, count).astype(np.float32), rng.normal(0, 0.2, count).astype(np.float32))


def test_similarity_is_the_cosine_about_the_mean() -> None:
    first, second, mean = np.random.default_rng(0).normal(size=(3, 50, 8)).astype(np.float32)
    expected = np.diag(cosine_similarity(np.float64(first) - mean[0], np.float64(second) - mean[0]))
    np.testing.assert_allclose(similarity(first, second, mean[0]), expected, atol=1e-12)
    assert similarity(first[3], second[3], mean[0]) == pytest.approx(expected[3], abs=1e-12)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    arrays(np.float32, st.integers(1, 60), elements=st.integers(-5, 5).map(lambda k: np.float32(k / 5))),
    st.integers(1, 999).map(lambda k: k / 1000),
)
def test_threshold_of_a_far_is_the_lowest_score_that_keeps_it(different: np.ndarray, far: float) -> None:
    rule = rule_of(np.ones(1, np.float32), different)
    if int(far * len(different) + 1e-9) < 1:
        with pytest.raises(UsageError, match="cannot resolve a rate below"):
            rule.threshold(far)
        return
    threshold = rule.threshold(far)
    allowed = far * len(different) + 1e-6
    assert (different > threshold).sum() <= allowed and threshold in different
    assert all((different > lower).sum() > allowed for lower in different[different < threshold])


@pytest.mark.parametrize("far", [0.005, 0.05, 0.3])
def test_rates_are_those_of_the_roc(far: float) -> None:
    rule = random_rule()
    fars, tars, _ = roc_curve(np.repeat([1, 0], 200), np.concatenate([rule.same, rule.different]),
                              drop_intermediate=False)  # fmt: skip
    at = np.searchsorted(fars, far + 1e-9) - 1
    assert rule.rates(rule.threshold(far)) == pytest.approx((fars[at], tars[at]))


def test_explanation_names_the_decision_and_the_rates_with_their_interval() -> None:
    rule = random_rule()
    text = rule.explain(0.7, 0.01)
    low, high = beta.ppf(0.025, 2, 199), beta.ppf(0.975, 3, 198)  # Clopper and Pearson
    assert "similarity 0.700: same person" in text
    interval = f"95 % interval {100 * low:.3g} % to {100 * high:.3g} %"
    assert f"2 of 200 pairs of different people are accepted ({interval})" in text
    assert "decided at 0.250, the threshold on 200 pairs" in rule.explain(0.2)
    assert "different people" in rule.explain(0.2).splitlines()[0]
    second_highest = float(rule.different[-2])
    assert f"{100 * 2 / 200:.3g} % of the pairs of different people score at least as high" in rule.explain(
        second_highest
    )


@pytest.mark.parametrize(
    ("far", "message"),
    [(0.004, "200 pairs of different people cannot resolve a rate below 0.005; use 0.005 or more"),
     (0.0, "not a rate"), (1.0, "not a rate"), (-1.0, "not a rate"), (float("nan"), "not a rate")],
)  # fmt: skip
def test_a_far_that_the_pairs_cannot_resolve_is_an_error(far: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        random_rule().threshold(far)


def test_a_rule_without_scores_has_no_threshold_at_a_far() -> None:
    rule = rule_of(np.zeros(0, np.float32), np.zeros(0, np.float32))
    assert rule.threshold() == 0.25 and len(rule.explain(0.3).splitlines()) == 2
    with pytest.raises(UsageError, match="exported without scores"):
        rule.threshold(0.01)


def test_a_rule_is_saved_and_loaded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(3, 1, size=(2, 40, 8)).astype(np.float32)
    same = np.arange(40) % 2 == 0
    computed = DecisionRule.from_pairs(left, right, same)
    mean = np.concatenate([left, right]).mean(0)
    np.testing.assert_allclose(computed.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(computed.same, np.sort(similarity(left[same], right[same], mean)), atol=1e-6)
    computed.save(tmp_path)
    loaded = DecisionRule.load(tmp_path, {"verification": VERIFICATION})
    assert loaded is not None
    for name in ("mean", "same", "different"):
        assert np.array_equal(getattr(computed, name), getattr(loaded, name))


def test_files_functions_and_unverified_models_have_no_threshold(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    random_rule().save(tmp_path)
    assert DecisionRule.load(tmp_path, {}) is None and DecisionRule.load(tmp_path, {"verification": None}) is None
    for model in (tmp_path / "model.onnx", Path("package.module:function")):
        assert DecisionRule.load(model, {"verification": VERIFICATION}) is None
    text = explain_similarity(0.12345, "model.onnx")
    assert text.startswith("similarity 0.123") and "sfplus calibrate model.onnx PHOTOS PAIRS" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": float("nan")}, "its verification.threshold is nan"),
        ({"threshold": float("inf")}, "its verification.threshold is inf"),
        ({"threshold": "0.3"}, "its verification.threshold is '0.3'"),
        ({"threshold": None}, "its verification.threshold is None"),
        ({"accuracy": float("-inf")}, "its verification.accuracy is -inf"),
        ({"pairs": 6000}, "its verification.pairs is 6000"),
        ({"protocol": None}, "its verification.protocol is None"),
        ("0.3", "its verification.threshold is None"),
    ],
)
def test_a_threshold_that_is_damaged_is_one_error(change: Any, message: str, tmp_path: Path) -> None:
    random_rule().save(tmp_path)
    verification = VERIFICATION | change if isinstance(change, dict) else change
    with pytest.raises(WeightsError, match=message) as caught:
        DecisionRule.load(tmp_path, {"verification": verification})
    assert "config.json" in str(caught.value) and "sfplus calibrate" in caught.value.remedy


@pytest.mark.parametrize("key", ["same", "different"])
@pytest.mark.parametrize("scores", [[0.5, 0.1], [0.1, 7.0], [-9.0, 0.1], [0.1, np.nan]])
def test_scores_that_are_no_similarities_are_refused(key: str, scores: list[float], tmp_path: Path) -> None:
    replace(random_rule(), **{key: np.array(scores, np.float32)}).save(tmp_path)
    with pytest.raises(WeightsError, match=f"its '{key}' (are not similarities in ascending order|is not a row of)"):
        DecisionRule.load(tmp_path, {"verification": VERIFICATION})


def test_a_similarity_that_is_not_a_number_is_no_decision() -> None:
    with pytest.raises(WeightsError, match="their similarity is not a number"):
        random_rule().explain(float("nan"))


ROW, ONE = np.zeros(4, np.float32), np.ones(1, np.float32)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (None, "there is no such file"),
        (b"nothing", "is damaged"),
        ({"same": ONE}, "is damaged"),
        ({"mean": np.full(4, np.nan, np.float32)}, "its 'mean' is not a row of finite float32 numbers"),
        ({"mean": np.full(4, np.inf, np.float32)}, "its 'mean' is not a row of finite"),
        ({"mean": np.zeros((2, 2), np.float32)}, "its 'mean' is not a row of finite"),
        ({"mean": np.zeros(4, np.int64)}, "its 'mean' is not a row of finite"),
        ({"mean": ROW, "same": ONE * np.nan, "different": ONE}, "its 'same' is not a row of finite"),
        ({"mean": ROW, "same": ONE, "different": -ONE * np.inf}, "its 'different' is not a row of finite"),
        ({"mean": np.zeros(5, np.float32)}, "its mean has 5 numbers, features have 2 or 4"),
    ],
)
def test_a_mean_that_is_damaged_is_one_error(tensors: Any, message: str, tmp_path: Path) -> None:
    if isinstance(tensors, bytes):
        (tmp_path / MEAN).write_bytes(tensors)
    elif tensors:
        save_file(tensors, tmp_path / MEAN)
    with pytest.raises(WeightsError, match=message) as caught:
        DecisionRule.load(tmp_path, {"verification": VERIFICATION, "feature_size": 2})
    assert MEAN in str(caught.value) and "sfplus calibrate" in caught.value.remedy


def test_the_description_has_the_rates_that_the_pairs_resolve() -> None:
    rule = random_rule()
    lines = rule.describe().splitlines()
    assert lines[0] == "accuracy 90.00 % on 200 pairs of pairs.txt (sphereface protocol)"
    assert lines[1].startswith("threshold 0.250") and [line[:10].strip() for line in lines[2:]] == [
        "FAR 0.1",
        "FAR 0.01",
    ]
    fars, tars, _ = roc_curve(np.repeat([1, 0], 200), np.concatenate([rule.same, rule.different]),
                              drop_intermediate=False)  # fmt: skip
    assert f"TAR {100 * tars[np.searchsorted(fars, 0.1 + 1e-9) - 1]:.3g} %" in lines[2]
