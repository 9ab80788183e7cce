"""Groups of faces of one person, from the nearest neighbours of their features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import norm
from sknetwork.clustering import PropagationClustering

from sfplus.people.neighbours import Neighbours

CHANCE_LINKS = 0.01  # links between different people per face, at most
_BLOCK = 65_536  # features at once

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


def link_threshold(different: NDArray[np.floating], count: int) -> float:
    """Return the similarity above which two of many faces are linked as the same person.

    The more faces there are, the more similar is the most similar stranger. The threshold is the similarity that a face
    has by chance to any of the faces of other people in one case of a hundred, if similarities of different people
    follow a normal distribution.

    Args:
        different: (P,) similarities of pairs of different people.
        count: The number of faces.
    """
    chance = min(CHANCE_LINKS / max(count - 1, 1), 0.5)
    return float(np.mean(different) + np.std(different) * norm.isf(chance))


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
    if not links.nnz:
        return np.arange(size)
    labels = PropagationClustering(sort_clusters=False).fit_predict(links.maximum(links.T))
    _, first, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), np.int64)
    rank[np.lexsort((first, -counts))] = np.arange(len(counts))
    return rank[inverse]


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
        others = sums[labels[part]] - features[part]
        lengths = np.maximum(np.linalg.norm(others, axis=1), np.finfo(np.float32).tiny)
        similarities[part] = np.einsum("ij,ij->i", others, features[part]) / lengths
    return similarities
