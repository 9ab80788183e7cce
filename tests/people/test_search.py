"""Search: similarity to the examples, and probabilities that are right in the long run."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from sfplus.errors import UsageError
from sfplus.people.search import posterior, search_faces
from sfplus.verification.decision import DecisionRule, similarity


def make_rule(size: int = 4) -> DecisionRule:
    rng = np.random.default_rng(0)
    same, different = rng.normal(0.6, 0.1, 3000), rng.normal(0, 0.1, 3000)
    mean = np.full(size, 0.1, np.float32)
    return DecisionRule(mean, np.sort(same).astype(np.float32), np.sort(different).astype(np.float32), {})


def test_faces_come_by_descending_similarity_after_the_mean_is_subtracted() -> None:
    features = np.random.default_rng(1).standard_normal((50, 4)).astype(np.float32)
    rule = make_rule()
    matches = search_faces(features[7], features, rule)
    assert matches.rows[0] == 7 and sorted(matches.rows) == list(range(50))
    np.testing.assert_allclose(
        matches.similarities, similarity(features[matches.rows], features[7], rule.mean), atol=1e-6
    )
    assert (np.diff(matches.probabilities) <= 0).all() and matches.probabilities[0] > 0.5


def test_several_examples_are_averaged_after_each_has_unit_length() -> None:
    features = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]], np.float32)
    matches = search_faces(features[:2] * np.array([[1], [9]]), features, None)
    assert matches.rows[0] == 2 and matches.similarities[0] == pytest.approx(1)
    assert np.isnan(matches.probabilities).all()  # without scores there are no probabilities


def test_features_of_another_model_are_refused() -> None:
    with pytest.raises(UsageError, match="the examples have 3 numbers, the features 4"):
        search_faces(np.ones(3), np.ones((2, 4)), None)
    assert len(search_faces(np.ones(4), np.ones((0, 4)), make_rule()).rows) == 0


@pytest.mark.parametrize("share", [0.5, 0.05, 0.002])
def test_probabilities_are_right_in_the_long_run_whatever_the_share_of_the_person(share: float) -> None:
    rng = np.random.default_rng(2)
    is_same = rng.random(200_000) < share
    scores = np.where(is_same, rng.normal(0.5, 0.15, len(is_same)), rng.normal(0, 0.15, len(is_same)))
    evidence = norm.logpdf(scores, 0.5, 0.15) - norm.logpdf(scores, 0, 0.15)
    probabilities = posterior(evidence)
    for low, high in ((0.1, 0.4), (0.4, 0.6), (0.6, 0.9), (0.9, 1)):
        part = (probabilities >= low) & (probabilities < high)
        count = part.sum()
        assert is_same[part].mean() == pytest.approx(probabilities[part].mean(), abs=4 * (0.25 / count) ** 0.5)


def test_the_likelihood_ratio_is_that_of_the_distributions_and_ignores_how_many_pairs_there_are() -> None:
    rng = np.random.default_rng(0)
    same, different = rng.normal(0.5, 0.15, 1000), rng.normal(0, 0.15, 20_000)
    rule = DecisionRule(np.zeros(4, np.float32), *(np.sort(s).astype(np.float32) for s in (same, different)), {})
    scores = np.array([0.1, 0.25, 0.4])
    exact = norm.logpdf(scores, 0.5, 0.15) - norm.logpdf(scores, 0, 0.15)
    np.testing.assert_allclose(rule.log_likelihood_ratio(scores), exact, rtol=0.1, atol=0.2)
    bare = DecisionRule(rule.mean, np.zeros(0, np.float32), np.zeros(0, np.float32), {})
    with pytest.raises(UsageError, match="exported without scores"):
        bare.log_likelihood_ratio(scores)
