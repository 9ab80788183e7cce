"""Groups of faces: the threshold of links, label propagation, similarity to the group."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from sfplus.people.grouping import (
    CHANCE_LINKS,
    _propagate_labels,
    estimate_different,
    group_faces,
    link_threshold,
    similarity_to_group,
)
from sfplus.people.neighbours import Neighbours, find_neighbours


def draw_people(
    counts: list[int], noise: float = 0.05, size: int = 64
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features of people with the given numbers of photos, in random order, and the person of each."""
    rng = np.random.default_rng(0)
    people = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    features = rng.standard_normal((len(counts), size))[people] + noise * size**0.5 * rng.standard_normal(
        (len(people), size)
    )
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), people


@pytest.mark.parametrize("size", [16, 128])
def test_the_threshold_keeps_chance_links_rare(size: int) -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((3000, size))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    cosines = (features @ features.T)[np.triu_indices(3000, 1)]
    mean, deviation = float(cosines[:3000].mean()), float(cosines[:3000].std())
    threshold = link_threshold(mean, deviation, 3000)
    links_per_face = 2 * (cosines > threshold).sum() / 3000
    assert CHANCE_LINKS / 10 < links_per_face < 10 * CHANCE_LINKS
    thresholds = [link_threshold(mean, deviation, count) for count in (1, 20, 200, 20_000, 10**9)]
    assert thresholds == sorted(thresholds) and thresholds[-1] < 1


def test_similarities_of_different_people_are_estimated_from_the_faces_themselves() -> None:
    features, people = draw_people([30] * 10 + [1] * 300)
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, len(people), (2, 100_000))
    different = people[first] != people[second]
    exact = np.einsum("ij,ij->i", features[first[different]], features[second[different]])
    mean, deviation = estimate_different(features)
    assert mean == pytest.approx(exact.mean(), abs=0.02) and deviation == pytest.approx(exact.std(), rel=0.1)
    assert estimate_different(features[:1]) == (0.0, 0.0)


def test_the_order_of_faces_does_not_matter() -> None:
    features, _ = draw_people([40] * 5 + [2] * 50, noise=0.12)
    groups = group_faces(find_neighbours(features), 0.3)
    order = np.random.default_rng(0).permutation(len(features))
    assert adjusted_rand_score(groups[order], group_faces(find_neighbours(features[order]), 0.3)) == 1


def test_the_sum_of_links_decides_and_not_their_number() -> None:
    """A face with one strong link to a person and two weak ones to another joins the first."""
    links = np.zeros((7, 7))
    for first, second, similarity in ((0, 1, 0.9), (2, 3, 0.9), (2, 4, 0.9), (3, 4, 0.9), (0, 5, 0.8), (1, 5, 0.8),
                                      (6, 0, 0.4), (6, 1, 0.4), (6, 2, 0.9)):  # fmt: skip
        links[first, second] = links[second, first] = similarity
    labels = _propagate_labels(sparse.csr_matrix(links))
    assert labels[6] == labels[2] == labels[3] == labels[4] != labels[0] == labels[1] == labels[5]


def test_labels_settle() -> None:
    """When propagation ends, no face has more votes for another label than for its own."""
    features, _ = draw_people([40] * 5 + [2] * 50, noise=0.12)
    neighbours = find_neighbours(features)
    linked = neighbours.similarities > 0.3
    rows, columns = np.nonzero(linked)[0], neighbours.rows[linked]
    links = sparse.csr_matrix((neighbours.similarities[linked], (rows, columns)), (300, 300))
    links = links.maximum(links.T).tocsr()
    labels = _propagate_labels(links)
    own = np.asarray(links.multiply(labels[:, None] == labels[None]).sum(1)).ravel()
    for label in np.unique(labels):
        assert (np.asarray(links.multiply(labels[None] == label).sum(1)).ravel() <= own + 1e-6).all()


def test_two_faces_do_not_swap_labels_for_ever() -> None:
    rows = np.array([[1], [0], [3], [2]], np.int32)
    neighbours = Neighbours(rows, np.full((4, 1), 0.9, np.float32), np.zeros(4, np.uint64))
    assert group_faces(neighbours, 0.5).tolist() == [0, 0, 1, 1]
    assert group_faces(neighbours, 0.95).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("counts", [[1], [2], [1, 1, 1], [5, 3, 2, 1, 1], [300, 200, 4, 2, 1], [60] * 10 + [1] * 40])
def test_people_with_few_and_many_photos_and_strangers_are_told_apart(counts: list[int]) -> None:
    features, people = draw_people(counts)
    groups = group_faces(find_neighbours(features), 0.7)
    assert np.bincount(groups).tolist() == sorted(counts, reverse=True)  # the largest first
    assert len(set(zip(groups, people, strict=True))) == len(counts)


def test_a_single_wrong_link_does_not_join_two_people() -> None:
    features, people = draw_people([30, 30])
    first, second = features[people == 0], features[people == 1]
    bridge = (first.mean(0) + second.mean(0))[None]
    all_features = np.concatenate([first, second, bridge / np.linalg.norm(bridge)]).astype(np.float32)
    groups = group_faces(find_neighbours(all_features), 0.55)
    assert groups[0] != groups[30] and len(set(groups[:30])) == len(set(groups[30:60])) == 1


def test_similarity_to_the_group_leaves_the_face_itself_out() -> None:
    features, people = draw_people([4, 3, 1])
    similarities = similarity_to_group(features, people)
    for row, person in enumerate(people):
        if person == 2:
            assert np.isnan(similarities[row])
        else:
            others = features[(people == person) & (np.arange(8) != row)].mean(0)
            assert similarities[row] == pytest.approx(features[row] @ others / np.linalg.norm(others), abs=1e-6)
