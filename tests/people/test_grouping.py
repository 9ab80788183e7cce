"""Groups of faces: the threshold of links, label propagation, similarity to the group."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sfplus.people.grouping import CHANCE_LINKS, group_faces, link_threshold, similarity_to_group
from sfplus.people.neighbours import find_neighbours


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


def test_the_threshold_keeps_chance_links_rare() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((2000, 128))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    cosines = (features @ features.T)[np.triu_indices(2000, 1)]
    threshold = link_threshold(cosines[:3000], 2000)
    links_per_face = 2 * (cosines > threshold).sum() / 2000
    assert CHANCE_LINKS / 5 < links_per_face < 5 * CHANCE_LINKS
    assert link_threshold(cosines[:3000], 200) < threshold < link_threshold(cosines[:3000], 20_000)
    assert np.isfinite(link_threshold(cosines[:3000], 1))


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
