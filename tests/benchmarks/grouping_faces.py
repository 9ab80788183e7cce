"""The faces of tests/benchmarks/grouping.py: features of people who are known, and what is made from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file
from scipy import sparse
from scipy.stats import beta

from sfplus.people.neighbours import Neighbours
from sfplus.verification.identification import search

PAIRS, MOST_NEIGHBOURS = 1_000_000, 64


@dataclass(frozen=True)
class Rule:
    """A threshold by the share of pairs of different people that may exceed it, and options of a method."""

    chance: float | None  # None for no threshold
    per_face: bool = True  # the share is chance / N
    neighbours: int = 32
    option: float | str = 0.0


@dataclass
class Faces:
    """Features with their neighbours."""

    features: np.ndarray  # float32 (N, D), of unit length
    person: np.ndarray
    mean: float  # of the similarities of different people
    deviation: float
    neighbours: Neighbours

    def threshold(self, rule: Rule) -> float:
        """Cosines of random directions in d dimensions: (1 + cosine) / 2 has a beta distribution, variance 1 / d."""
        if rule.chance is None:
            return -1.0
        chance, a = rule.chance / (len(self.person) if rule.per_face else 1), (self.deviation**-2 - 1) / 2
        return self.mean + 2 * float(beta.isf(min(chance, 0.5), a, a)) - 1

    def links(self, rule: Rule, distances: bool = False) -> sparse.csr_matrix:
        similarities = self.neighbours.similarities[:, : rule.neighbours]
        linked, size = similarities > self.threshold(rule), len(self.person)
        values, columns = similarities[linked], self.neighbours.rows[:, : rule.neighbours][linked]
        values = np.clip(1 - values, 1e-6, 2) if distances else values
        one_way = sparse.csr_matrix((values, (np.nonzero(linked)[0], columns)), (size, size))
        return one_way.maximum(one_way.T).tocsr()


def load(folder: Path, other: Path | None = None, seen: int = 1, size: int = MOST_NEIGHBOURS) -> Faces:
    """Load the features of a folder; subtract the mean and fit the scores that its model or another folder has."""
    features, person = read(folder)
    is_kept = np.bincount(person)[person] >= seen
    features, person = features[is_kept], np.unique(person[is_kept], return_inverse=True)[1]
    if (folder / "mean.safetensors").exists():
        tensors = load_file(folder / "mean.safetensors")
        average_feature, scores = tensors["mean"], tensors["different"]
    else:
        others, other_person = read(other or folder)
        average_feature = others.mean(0)
        scores = scores_of_different(unit(others - average_feature), other_person)
    features = unit(features - average_feature)
    return Faces(features, person, float(scores.mean()), float(scores.std()), nearest(features, size))


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    photos = pq.read_table(folder / "index.parquet")["photo"].to_pylist()
    features = load_file(folder / "features.safetensors")["features"].astype(np.float32)
    return features, np.unique([photo.rsplit("/", 1)[0] for photo in photos], return_inverse=True)[1]


def unit(features: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(features / np.linalg.norm(features, axis=1, keepdims=True), np.float32)


def scores_of_different(features: np.ndarray, person: np.ndarray) -> np.ndarray:
    left, right = np.random.default_rng(0).integers(0, len(person), (2, PAIRS))
    different = person[left] != person[right]
    return np.einsum("ij,ij->i", features[left[different]], features[right[different]])


def nearest(features: np.ndarray, size: int) -> Neighbours:
    """Search exactly; `find_neighbours` has 32."""
    similarities, rows = search(features, features, min(size + 1, len(features)))
    drop = rows == np.arange(len(rows))[:, None]
    drop[~drop.any(1), -1] = True
    shape = len(rows), rows.shape[1] - 1
    return Neighbours(rows[~drop].reshape(shape).astype(np.int32), similarities[~drop].reshape(shape), np.empty(0))


def select(faces: Faces, rows: np.ndarray) -> Faces:
    person = np.unique(faces.person[rows], return_inverse=True)[1]
    features = np.ascontiguousarray(faces.features[rows])
    size = faces.neighbours.rows.shape[1]
    return Faces(features, person, faces.mean, faces.deviation, nearest(features, size))


def drawn(count: int = 5000) -> Faces:
    """Draw random directions as people, of whom half are seen once, with noise as in photos."""
    rng = np.random.default_rng(0)
    sizes = np.where(rng.random(count) < 0.5, 1, rng.geometric(0.1, count))
    person = np.repeat(np.arange(count), sizes)[:count]
    centres, noise = rng.standard_normal((count, 100)), rng.standard_normal((count, 100))
    features = unit(unit(centres)[person] * 0.8 + unit(noise) * 0.6)
    return Faces(features, person, 0.0, 0.1, nearest(features, MOST_NEIGHBOURS))


def development_sets(named: dict[str, Faces]) -> dict[str, Faces]:
    """Make sets of different kinds: at most 100 photos of a person, an album, strangers, six people with all photos."""
    rng, sets = np.random.default_rng(0), {}
    for name, faces in named.items():
        rows = rng.permutation(len(faces.person))
        order = rows[np.argsort(faces.person[rows], kind="stable")]
        counts = np.bincount(faces.person)
        turn = np.empty(len(rows), np.int64)  # of the face among those of its person
        turn[order] = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        rank = rng.permutation(len(counts))[faces.person]
        sets[name] = select(faces, np.flatnonzero(turn < 100))
        sets[f"{name}, album"] = select(faces, np.flatnonzero(turn < np.maximum(200 // (rank + 1), 1)))
        if len(counts) < 100:
            sets[f"{name}, 6 people"] = select(faces, np.flatnonzero(rank < 6))
        else:
            sets[f"{name}, strangers"] = select(faces, np.flatnonzero((turn == 0) | (rank % 2 == 0)))
    return sets


def multiply(faces: Faces, count: int) -> Faces:
    """Make more people: copies of the faces, of whose principal components the signs are drawn for each copy.

    This is a reflection, which keeps the similarities in a copy and the variances between copies. Gaussian noise of a
    twentieth of the length is added, so that no two features are equal.
    """
    rng, size = np.random.default_rng(0), faces.features.shape[1]
    basis = np.linalg.eigh(np.cov(faces.features.T))[1]
    parts, people = [], []
    for copy in range(-(-count // len(faces.person))):
        signs = rng.choice([-1.0, 1.0], size) if copy else np.ones(size)
        noise = rng.standard_normal(faces.features.shape, np.float32) * (0.05 / size**0.5)
        parts.append(unit(faces.features @ ((basis * signs) @ basis.T).astype(np.float32) + noise))
        people.append(faces.person + copy * (faces.person.max() + 1))
    features, person = np.concatenate(parts)[:count], np.concatenate(people)[:count]
    return Faces(features, person, faces.mean, faces.deviation, Neighbours(*[np.empty(0)] * 3))


def similarities_of_pairs(features: np.ndarray, person: np.ndarray) -> tuple[str, str]:
    """Describe the similarities of random pairs of the same person, and of different people."""
    order = np.argsort(person, kind="stable")
    right = np.random.default_rng(0).permutation(order)[: len(order)]
    shifted = np.roll(order, 3)
    same = person[order] == person[shifted]
    pairs = (order[same], shifted[same]), (order[person[order] != person[right]], right[person[order] != person[right]])
    scores = [np.einsum("ij,ij->i", features[a], features[b]) for a, b in pairs]
    return tuple(f"{values.mean():.3f} +- {values.std():.3f}" for values in scores)  # type: ignore[return-value]
