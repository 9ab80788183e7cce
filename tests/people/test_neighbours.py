"""Nearest neighbours are those of scikit-learn, however the features came together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from sfplus.people import neighbours
from sfplus.people.neighbours import NEIGHBOURS, Neighbours, find_neighbours


def unit_features(count: int, seed: int = 0) -> NDArray[np.float32]:
    features = np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def reference(features: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    search = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(features) - 1), metric="cosine").fit(features)
    distances, rows = search.kneighbors()
    return rows, 1 - distances


def check(result: Neighbours, features: NDArray[np.float32]) -> None:
    rows, similarities = reference(features)
    np.testing.assert_allclose(result.similarities, similarities, atol=1e-6)
    assert (result.rows == rows).mean() > 0.999  # all but ties


@pytest.mark.parametrize("count", [2, 3, 20, 33, 34, 500])
def test_neighbours_are_those_of_scikit_learn(count: int) -> None:
    features = unit_features(count)
    check(find_neighbours(features), features)


@pytest.mark.parametrize("count", [0, 1])
def test_one_feature_has_no_neighbour(count: int) -> None:
    assert find_neighbours(unit_features(2)[:count]).rows.shape == (count, 0)


def test_equal_features_are_neighbours_of_each_other() -> None:
    features = np.repeat(unit_features(3), 40, 0)
    result = find_neighbours(features)
    assert (result.rows != np.arange(120)[:, None]).all()
    np.testing.assert_allclose(result.similarities, 1, atol=1e-6)
    again = find_neighbours(features, result)
    np.testing.assert_allclose(again.similarities, 1, atol=1e-6)
    assert (again.rows != np.arange(120)[:, None]).all()


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (range(400), range(400)),
        (range(400), range(401)),
        (range(300), range(400)),
        (range(400), range(399)),
        (range(400), range(50, 420)),
        (range(400), range(399, -1, -1)),
        (range(20), range(400)),
        (range(400), range(20)),
        (range(200), range(200, 400)),
    ],
    ids=str,
)
def test_a_search_after_changes_gives_what_a_new_search_gives(before: range, now: range) -> None:
    features = unit_features(420)
    earlier = find_neighbours(features[list(before)])
    changed = features[list(now)]
    check(find_neighbours(changed, earlier), changed)


def test_known_features_are_not_compared_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    features = unit_features(400)
    earlier = find_neighbours(features[:-1])
    products: list[int] = []
    search = neighbours.search

    def count(probes: NDArray[np.float32], gallery: NDArray[np.float32], k: int) -> object:
        products.append(len(probes) * len(gallery))
        return search(probes, gallery, k)

    monkeypatch.setattr(neighbours, "search", count)
    find_neighbours(features, earlier)
    assert sum(products) == 400 + 399


def test_neighbours_are_kept_in_a_file_and_a_damaged_file_counts_as_none(tmp_path: Path) -> None:
    result, file = find_neighbours(unit_features(40)), tmp_path / "neighbours.safetensors"
    assert Neighbours.load(file) is None
    result.save(file)
    loaded = Neighbours.load(file)
    assert loaded is not None
    for name in ("rows", "similarities", "keys"):
        assert np.array_equal(getattr(loaded, name), getattr(result, name))
    file.write_bytes(file.read_bytes()[:-9])
    assert Neighbours.load(file) is None


def test_an_approximate_search_finds_almost_all_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(neighbours, "APPROXIMATE_FROM", 1000)
    people = np.repeat(unit_features(100), 40, 0)
    features = people + 0.1 * np.random.default_rng(1).standard_normal(people.shape).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    found, (rows, _) = find_neighbours(features), reference(features)
    assert np.mean([len(set(a) & set(b)) for a, b in zip(found.rows, rows, strict=True)]) > 0.95 * NEIGHBOURS
