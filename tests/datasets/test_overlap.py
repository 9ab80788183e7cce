from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from sfplus.datasets import overlap as module
from sfplus.datasets.overlap import PersonMeans, choose_threshold, match_features, match_names, name_key


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("George_W_Bush", "george w bush"),
        ("Zoë_Ball", "Zoe Ball"),
        ("Bush, George W.", "George_W_Bush"),
        ("Ana_Ivanović_0003", "ANA-IVANOVIC"),
        ("actors/Tom_Cruise", "Tom.Cruise 2"),
        ("Straße_Anna", "strasse anna"),
        ("Ｔｏｍ Ｃｒｕｉｓｅ", "Tom Cruise"),
    ],
)
def test_spellings_of_a_name_have_one_key(first: str, second: str) -> None:
    assert name_key(first) == name_key(second) != ()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("celeba_7201", "celeba_7202"),
        ("n000012", "n000013"),
        ("0000012", "0000120"),
        ("Tom_Cruise", "Tom_Cruz"),
        ("John_F_Kennedy", "John_Kennedy"),
        ("李明", "李红"),
    ],
)
def test_different_names_have_different_keys(first: str, second: str) -> None:
    assert name_key(first) != name_key(second)


def test_names_without_a_word_match_nothing() -> None:
    assert match_names(["--", "B_a"], ["!!", "a b", "A_B"]) == [(1, 1), (1, 2)]


@pytest.mark.parametrize(("first", "second"), [("0000001", "0000001"), ("1_2", "1 2"), ("ids/7", "7"), ("٣", "٣")])
def test_numbers_do_not_match(first: str, second: str) -> None:
    assert name_key(first) == name_key(second)
    assert match_names([first, "n000123"], [second, "n000123"]) == [(1, 1)]


def means_of(features: dict[str, np.ndarray]) -> PersonMeans:
    means = PersonMeans()
    for person, rows in features.items():
        for row in rows:
            means.add(person, row.astype(np.float32))
    return means


def test_means_and_halves() -> None:
    rows = np.random.default_rng(0).standard_normal((5, 8))
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    means = means_of({"a": rows, "b": 7 * rows[:1], "c": rows[3:]})
    np.testing.assert_allclose(means.means(), [units.mean(0), units[0], units[3:].mean(0)], atol=1e-6)
    left, right = means.half_means()
    np.testing.assert_allclose(left, [units[::2].mean(0), units[3]], atol=1e-6)
    np.testing.assert_allclose(right, [units[1::2].mean(0), units[4]], atol=1e-6)
    assert means.people == ["a", "b", "c"] and means.counts == [5, 1, 2]


def sets(rng: np.random.Generator, shared: int, noise: float) -> tuple[PersonMeans, PersonMeans]:
    """Return 200 and 300 people, of which the first `shared` are the same; all features have a large part in common."""
    common = 3 * rng.standard_normal(32)
    centres = rng.standard_normal((500, 32))
    centres[200 : 200 + shared] = centres[:shared]
    photos = common + centres[:, None] + noise * rng.standard_normal((500, 4, 32))
    return (
        means_of({f"train {i}": photos[i] for i in range(200)}),
        means_of({f"test {i}": photos[200 + i] for i in range(300)}),
    )


def test_people_in_both_sets_are_matched() -> None:
    train, test = sets(np.random.default_rng(0), 12, 0.3)
    threshold = choose_threshold(train, test, 0.01)
    pairs = match_features(train, test, threshold.value)
    assert {(i, i) for i in range(12)} <= {pair[:2] for pair in pairs}
    assert len(pairs) <= 12 + 3 * 0.01 * 300  # what was promised, three times
    assert [pair[2] for pair in pairs] == sorted((pair[2] for pair in pairs), reverse=True)
    assert threshold.people == 500 and threshold.recall == 1.0
    assert threshold.different_pairs == 200 * 199 // 2 + 300 * 299 // 2
    assert threshold.false_match_rate == 5 / threshold.different_pairs  # 0.01 / 200 would be fewer than five of them


def test_false_alarms_are_as_many_as_expected() -> None:
    """Count the matches over many draws without a shared person."""
    alarms, expected = 0, 0.0
    for seed in range(20):
        train, test = sets(np.random.default_rng(seed), 0, 2.0)
        threshold = choose_threshold(train, test, 0.1)
        alarms += len(match_features(train, test, threshold.value))
        expected += threshold.false_match_rate * 200 * 300
    assert alarms == pytest.approx(expected, rel=0.2)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.floats(-0.5, 0.9))
@settings(max_examples=50, deadline=None)
def test_blocks_give_the_full_product(rows: int, columns: int, block: int, threshold: float) -> None:
    rng = np.random.default_rng(rows)
    train = means_of({f"a{i}": rng.standard_normal((2, 6)) for i in range(rows)})
    test = means_of({f"b{i}": rng.standard_normal((1, 6)) for i in range(columns)})
    centre = (train.means().mean(0) + test.means().mean(0)) / 2
    expected = cosine_similarity(train.means() - centre, test.means() - centre)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_SIZE", block)
        matches = match_features(train, test, threshold)
    certain = {(i, j) for i, j in zip(*np.nonzero(expected > threshold + 1e-5), strict=True)}
    possible = {(i, j) for i, j in zip(*np.nonzero(expected > threshold - 1e-5), strict=True)}
    assert certain <= {pair[:2] for pair in matches} <= possible
    for i, j, cosine in matches:
        assert cosine == pytest.approx(expected[i, j], abs=1e-5)


def test_too_few_people_give_a_threshold_of_1() -> None:
    rows = np.eye(4)[:, None]
    threshold = choose_threshold(means_of({"a": rows[0], "b": rows[1]}), means_of({"c": rows[2]}), 0.01)
    assert threshold.value == 1.0 and threshold.different_pairs == 1 and np.isnan(threshold.recall)


@pytest.mark.parametrize("false_alarms", [29, 30, 1000, 1e308])
def test_more_false_alarms_than_people_match_everybody(false_alarms: float) -> None:
    """With 30 people, 30 or more false alarms allow all matches, and 29 nearly all."""
    rng = np.random.default_rng(0)
    train = means_of({f"a{i}": rng.standard_normal((1, 6)) for i in range(30)})
    test = means_of({f"b{i}": rng.standard_normal((1, 6)) for i in range(30)})
    threshold = choose_threshold(train, test, false_alarms)
    assert threshold.value < 0 and threshold.false_match_rate >= 29 / 30 - 1e-9
