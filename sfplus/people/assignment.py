"""Which person each group of faces is: people keep their ids, names and corrections from run to run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]


def assign_people(
    groups: Numbers, features: Floats, earlier: Numbers, pinned: Numbers, next_number: int
) -> tuple[Numbers, int]:
    """Return the person of each face.

    - A pinned face stays with its person: the user moved it there, or gave the person a name.
    - In a group with pinned faces, faces that had a person keep it, and a new face joins the most similar of the people
      in its group.
    - Any other group becomes the person with whom it shares most faces, or else a new one.

    Args:
        groups: int64 (N,), the group of each face, from 0.
        features: float32 (N, D), of unit length.
        earlier: int64 (N,), the person of each face in the run before; -1 for new faces.
        pinned: int64 (N,), the person with whom a face stays; -1 for the others.
        next_number: The smallest number that no person has had yet.

    Returns:
        int64 (N,), the numbers of the people, and the next free number.
    """
    people = pinned.copy()
    has_pinned = np.bincount(groups, pinned >= 0).astype(bool)[groups] if len(groups) else np.zeros(0, bool)
    people = np.where((people < 0) & has_pinned, earlier, people)
    new = np.flatnonzero((people < 0) & has_pinned)
    people[new] = _most_similar(new, groups, features, people)
    free = np.flatnonzero(~has_pinned)
    numbers, next_number = _number_groups(groups[free], earlier[free], people, next_number)
    people[free] = numbers
    return people, next_number


def _most_similar(new: Numbers, groups: Numbers, features: Floats, people: Numbers) -> Numbers:
    """Return for each new face that person of its group whose mean feature is the most similar."""
    assigned = np.flatnonzero((people >= 0) & np.isin(groups, groups[new]))
    pairs, pair_of_face = np.unique(np.stack([groups[assigned], people[assigned]], 1), axis=0, return_inverse=True)
    ones = np.ones(len(assigned), np.float32)
    sums = sparse.csr_matrix((ones, (pair_of_face.ravel(), np.arange(len(assigned)))), (len(pairs), len(assigned)))
    means = sums @ features[assigned]
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    # a row for each new face and each person of its group; the pairs of a group are consecutive
    first = np.searchsorted(pairs[:, 0], groups[new])
    counts = np.searchsorted(pairs[:, 0], groups[new], side="right") - first
    face = np.repeat(np.arange(len(new)), counts)
    pair = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    similarity = np.einsum("ij,ij->i", features[new[face]], means[pair])
    order = np.lexsort((-similarity, face))
    best = order[np.searchsorted(face[order], np.arange(len(new)))]
    return np.asarray(pairs[pair[best], 1])


def _number_groups(groups: Numbers, earlier: Numbers, taken: Numbers, next_number: int) -> tuple[Numbers, int]:
    """Return the person of each face of groups without pinned faces."""
    assigned = earlier >= 0
    overlaps, counts = np.unique(np.stack([groups[assigned], earlier[assigned]], 1), axis=0, return_counts=True)
    order = np.lexsort((overlaps[:, 1], -counts))
    overlaps = overlaps[order][~np.isin(overlaps[order, 1], taken)]
    # a group and a person belong together if each shares most faces with the other
    favourite = np.zeros(len(overlaps), bool)
    favourite[np.unique(overlaps[:, 0], return_index=True)[1]] = True
    is_mutual = np.zeros(len(overlaps), bool)
    is_mutual[np.unique(overlaps[:, 1], return_index=True)[1]] = True
    matched = overlaps[favourite & is_mutual]
    size = int(groups.max(initial=-1)) + 1
    numbers = np.full(size, -1, np.int64)
    numbers[matched[:, 0]] = matched[:, 1]
    unnumbered = np.flatnonzero((numbers < 0) & (np.bincount(groups, minlength=size) > 0))
    numbers[unnumbered] = next_number + np.arange(len(unnumbered))
    return numbers[groups], next_number + len(unnumbered)
