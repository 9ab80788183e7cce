"""Decisions on two photos: what a similarity means, by the verification of the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import beta
from sklearn.metrics import roc_curve
from sklearn.metrics.pairwise import cosine_similarity

from sfplus.errors import UsageError, WeightsError
from sfplus.networks import create
from sfplus.verification.decision import Judge, similarity
from sfplus.weights import MEAN
from sfplus.weights.model_folder import save_model

ABOUT = {"threshold": 0.25, "accuracy": 0.9, "pairs": "200 pairs of pairs.txt", "protocol": "sphereface"}


def judge(same: np.ndarray, different: np.ndarray) -> Judge:
    return Judge(np.zeros(4, np.float32), np.sort(same), np.sort(different), ABOUT)


def scores(count: int = 200) -> Judge:
    rng = np.random.default_rng(0)
    return judge(rng.normal(0.5, 0.2, count).astype(np.float32), rng.normal(0, 0.2, count).astype(np.float32))


def test_similarity_is_the_cosine_about_the_mean() -> None:
    first, second, mean = np.random.default_rng(0).normal(size=(3, 50, 8)).astype(np.float32)
    expected = np.diag(cosine_similarity(np.float64(first) - mean[0], np.float64(second) - mean[0]))
    np.testing.assert_allclose(similarity(first, second, mean[0]), expected, atol=1e-12)
    assert similarity(first[3], second[3], mean[0]) == pytest.approx(expected[3], abs=1e-12)


@given(
    arrays(np.float32, st.integers(1, 60), elements=st.integers(-5, 5).map(lambda k: np.float32(k / 5))),
    st.integers(1, 999).map(lambda k: k / 1000),
)
def test_threshold_of_a_far_is_the_lowest_score_that_keeps_it(different: np.ndarray, far: float) -> None:
    found = judge(np.ones(1, np.float32), different)
    if int(far * len(different) + 1e-9) < 1:
        with pytest.raises(UsageError, match="cannot show a rate below"):
            found.threshold(far)
        return
    threshold = found.threshold(far)
    allowed = far * len(different) + 1e-6
    assert (different > threshold).sum() <= allowed and threshold in different
    assert all((different > lower).sum() > allowed for lower in different[different < threshold])


@pytest.mark.parametrize("far", [0.005, 0.05, 0.3])
def test_rates_are_those_of_the_roc(far: float) -> None:
    found = scores()
    rates, hits, _ = roc_curve(np.repeat([1, 0], 200), np.concatenate([found.same, found.different]),
                               drop_intermediate=False)  # fmt: skip
    at = np.searchsorted(rates, far + 1e-9) - 1
    assert found.rates(found.threshold(far)) == pytest.approx((rates[at], hits[at]))


def test_what_is_said_of_a_far() -> None:
    said = scores().say(0.7, 0.01)
    low, high = beta.ppf(0.025, 2, 199), beta.ppf(0.975, 3, 198)  # Clopper and Pearson
    assert "similarity 0.700: same person" in said
    assert f"2 of 200 pairs of two people are accepted (95 % interval {100 * low:.3g} % to {100 * high:.3g} %)" in said
    assert "decided at 0.250, the threshold on 200 pairs" in scores().say(0.2) and "different people" in scores().say(
        0.2
    )
    least = scores().different[-2:]
    assert f"{100 * 2 / 200:.3g} % of those of two people score as high" in scores().say(float(least[0]))


@pytest.mark.parametrize(
    ("far", "says"),
    [(0.004, "200 pairs of two people cannot show a rate below 0.005; ask for 0.005 or more"), (0.0, "no rate"),
     (1.0, "no rate"), (-1.0, "no rate"), (float("nan"), "no rate")],
)  # fmt: skip
def test_a_far_that_the_pairs_cannot_show(far: float, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        scores().threshold(far)


def test_a_judge_is_saved_and_loaded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(3, 1, size=(2, 40, 8)).astype(np.float32)
    same = np.arange(40) % 2 == 0
    made = Judge.of_pairs(left, right, same)
    mean = np.concatenate([left, right]).mean(0)
    np.testing.assert_allclose(made.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(made.same, np.sort(similarity(left[same], right[same], mean)), atol=1e-6)
    made.save(tmp_path)
    loaded = Judge.load(tmp_path, {"verification": ABOUT})
    for name in ("mean", "same", "different"):
        assert np.array_equal(getattr(made, name), getattr(loaded, name))
    (tmp_path / MEAN).write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="is damaged"):
        Judge.load(tmp_path, {"verification": ABOUT})
    with pytest.raises(UsageError, match="has no threshold"):
        Judge.load(tmp_path, {})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An untrained model with the judge of 100 drawn scores of each kind."""
    torch.manual_seed(0)
    shape = {"network": "sphereface4", "feature_size": 2, "width": 0.125, "template": "sphereface-112x96"}
    network = create("sphereface4", feature_size=2, width=0.125)
    save_model(tmp_path / "model", network, shape | {"verification": ABOUT})
    scores(100).save(tmp_path / "model")
    return tmp_path / "model"


def test_compare_at_a_far(model: Path, drawn: Path, sfplus: Callable) -> None:
    one, two = sorted(drawn.glob("*/*.jpg"))[:2]
    answer = sfplus("compare", one, two, "--model", model, "--far", "0.01")
    assert answer.code == 0 and "FAR 0.01: 1 of 100 pairs of two people are accepted" in answer.out
    answer = sfplus("compare", one, two, "--model", model, "--far", "0.001")
    assert answer.code == 2 and "cannot show a rate below 0.01; ask for 0.01 or more" in answer.err
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"verification": None}))
    answer = sfplus("compare", one, two, "--model", model)
    assert answer.code == 2 and "make it with: sfplus export" in answer.err


def test_the_shipped_model_decides_at_a_far(drawn: Path, sfplus: Callable) -> None:
    one, two = sorted(drawn.glob("*/*.jpg"))[:2]
    answer = sfplus("compare", one, two, "--far", "0.001")
    assert answer.code == 0 and "3 of 3,000 pairs of two people are accepted" in answer.out


def test_crops_cannot_go_below_a_file(sfplus: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = sfplus("compare", "a.jpg", "b.jpg", "--save", tmp_path / "file" / "crops")
    assert answer.code == 2 and "file: is not a folder; choose another one" in answer.err
