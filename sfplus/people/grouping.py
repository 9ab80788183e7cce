"""Groups of faces of one person, from the nearest neighbours of their features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import beta, norm

from sfplus.people.neighbours import Neighbours

CHANCE_LINKS = 0.003  # links between different people per face
_SAMPLED_PAIRS = 200_000
_PASSES = 100  # of label propagation at most; about ten are needed
_TIE = 1e-9  # between sums of weights
_BLOCK = 65_536  # features at once

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


def link_threshold(mean: float, deviation: float, count: int) -> float:
    """Return the similarity above which two of many faces are linked as the same person.

    The more faces there are, the more similar is the most similar stranger. Similarities of different people are taken
    to have the distribution of cosines of random directions, in the number of dimensions that gives their variance; the
    threshold is what a face reaches by chance with any of the sums_without in three cases of a thousand.

    Args:
        mean: The mean similarity of different people.
        deviation: The standard deviation of their similarity.
        count: The number of faces.
    """
    shape = (1 / max(deviation, 1e-6) ** 2 - 1) / 2
    chance = min(CHANCE_LINKS / max(count - 1, 1), 0.5)
    return float(mean + 2 * beta.isf(chance, shape, shape) - 1)


def estimate_different(features: Floats) -> tuple[float, float]:
    """Return the mean and standard deviation of the similarity of different people, from the faces themselves.

    Most pairs of faces are of different people, and those of the same person are the most similar: the median and the
    quantile below it are hardly changed by them.

    Args:
        features: float32 (N, D), of unit length.
    """
    if len(features) < 2:
        return 0.0, 0.0
    first, second = np.random.default_rng(0).integers(0, len(features), (2, _SAMPLED_PAIRS))
    first, second = first[first != second], second[first != second]
    similarities = np.einsum("ij,ij->i", features[first], features[second])
    below, median = np.quantile(similarities, [norm.cdf(-1), 0.5])
    return float(median), float(median - below)


def group_faces(neighbours: Neighbours, threshold: float) -> Labels:
    """Return the group of each face, by label propagation along the links between neighbours.

    Each face takes the label that the faces it is linked to have most, weighted by similarity, until none changes
    (Raghavan et al. 2007; the procedure that dlib calls Chinese whispers). Unlike connected components, two people are
    not joined by a single wrong link; unlike average linkage and HDBSCAN, people with hundreds of photos stay whole.

    Args:
        neighbours: The nearest neighbours of N faces.
        threshold: Faces are linked if they are more similar than this.

    Returns:
        int64 (N,), groups from 0, the largest first.
    """
    linked = neighbours.similarities > threshold
    rows, columns = np.nonzero(linked)[0], neighbours.rows[linked]
    size = len(neighbours.rows)
    links = sparse.csr_matrix((neighbours.similarities[linked], (rows, columns)), (size, size))
    labels = _propagate_labels(links.maximum(links.T).tocsr())
    _, first, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), np.int64)
    rank[np.lexsort((first, -counts))] = np.arange(len(counts))
    return rank[inverse]


def _propagate_labels(links: sparse.csr_matrix) -> Labels:
    """Return the label of each face after label propagation, the faces with the strongest links first.

    One face is updated at a time: if many are, neighbours exchange their labels and groups stay apart. This takes a
    thirtieth of the time of the neighbour search at 100,000 faces, and less with more.
    """
    ends, columns, weights = links.indptr.tolist(), links.indices, links.data
    labels, is_active = list(range(links.shape[0])), np.diff(links.indptr) > 0
    order = np.argsort(-np.asarray(links.sum(1)).ravel(), kind="stable")
    for _ in range(_PASSES):
        active, is_active = order[is_active[order]].tolist(), np.zeros_like(is_active)
        for face in active:
            neighbours = columns[ends[face] : ends[face + 1]]
            votes: dict[int, float] = {}
            for neighbour, weight in zip(
                neighbours.tolist(), weights[ends[face] : ends[face + 1]].tolist(), strict=True
            ):
                votes[labels[neighbour]] = votes.get(labels[neighbour], 0.0) + weight
            most = max(votes.values()) - _TIE
            if votes.get(labels[face], 0.0) < most:
                labels[face] = min(label for label, vote in votes.items() if vote >= most)
                is_active[neighbours] = True
        if not is_active.any():
            break
    return np.asarray(labels)


def similarity_to_group(features: Floats, labels: Labels) -> Floats:
    """Return the similarity of each face to the mean of the other faces of its group.

    Args:
        features: float32 (N, D), of unit length.
        labels: int64 (N,), from 0.

    Returns:
        float32 (N,); NaN for a face that is alone in its group.
    """
    size = int(labels.max(initial=-1)) + 1
    members = sparse.csr_matrix(
        (np.ones(len(labels), np.float32), (labels, np.arange(len(labels)))), (size, len(labels))
    )
    sums = members @ features
    similarities = np.full(len(labels), np.nan, np.float32)
    is_grouped = np.bincount(labels, minlength=size)[labels] > 1
    for start in range(0, len(labels), _BLOCK):
        part = np.flatnonzero(is_grouped[start : start + _BLOCK]) + start
        sums_without = sums[labels[part]] - features[part]
        lengths = np.maximum(np.linalg.norm(sums_without, axis=1), np.finfo(np.float32).tiny)
        similarities[part] = np.einsum("ij,ij->i", sums_without, features[part]) / lengths
    return similarities
