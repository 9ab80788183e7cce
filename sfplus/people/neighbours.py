"""The nearest neighbours of each of many features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from safetensors.numpy import save as save_tensors

from sfplus.errors import SfplusError, explain_damage
from sfplus.io.files import write_atomically
from sfplus.verification.identification import search

NEIGHBOURS = 32
APPROXIMATE_FROM = 200_000  # features; an exact search takes a time of the order of their square
_CELLS, _PROBED_CELLS = 4, 32  # of the approximate search: cells per square root of features, and how many are searched
_TRAINING_FEATURES = 64  # per cell
_HASHED = 65_536  # features at once

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest neighbours of N features by cosine.

    Attributes:
        rows: int32 (N, K), the rows of the neighbours, the nearest first.
        similarities: float32 (N, K), their cosines.
        keys: uint64 (N,), a hash of each feature, by which a later search knows it again.
    """

    rows: Ints
    similarities: Floats
    keys: NDArray[np.uint64]

    def save(self, path: Path) -> None:
        """Write the neighbours to a safetensors file, atomically."""
        tensors: dict[str, NDArray[Any]]
        tensors = {"rows": self.rows, "similarities": self.similarities, "keys": self.keys}
        write_atomically(path, save_tensors(tensors))

    @classmethod
    def load(cls, path: Path) -> Neighbours | None:
        """Read neighbours from a file; None if it is missing or damaged."""
        try:
            with explain_damage(path, remedy="it is computed again"):
                tensors = load_file(path)
        except SfplusError:
            return None
        rows, similarities, keys = (tensors.get(name, np.empty(0)) for name in ("rows", "similarities", "keys"))
        kinds = rows.dtype == np.int32 and similarities.dtype == np.float32 and keys.dtype == np.uint64
        shapes = rows.ndim == 2 and similarities.shape == rows.shape and keys.shape == rows.shape[:1]
        if not (kinds and shapes and ((rows >= 0) & (rows < len(rows))).all() and np.isfinite(similarities).all()):
            return None
        return cls(rows, similarities, keys)


def find_neighbours(features: Floats, earlier: Neighbours | None = None) -> Neighbours:
    """Return the nearest neighbours of each feature among the others.

    The search is exact up to 200,000 features; beyond, and if faiss is installed, it is approximate (an inverted file
    index, which searches the nearest cells only). Features that an earlier search knows are only compared with new
    ones, unless one of their neighbours is gone.

    Args:
        features: float32 (N, D), of unit length.
        earlier: The result of an earlier search, for example in the same folder with fewer photos.
    """
    size = min(NEIGHBOURS, len(features) - 1)
    keys = _hash_rows(features)
    if size < 1:
        empty = np.empty((len(features), 0))
        return Neighbours(empty.astype(np.int32), empty.astype(np.float32), keys)
    if earlier is None or earlier.rows.shape[1] != size:
        return Neighbours(*_search_all(features, size), keys)
    row_before = _match(keys, earlier.keys)
    row_now = np.full(len(earlier.keys), -1, np.int32)
    row_now[row_before[row_before >= 0]] = np.flatnonzero(row_before >= 0)
    rows = np.where((row_before >= 0)[:, None], row_now[earlier.rows[row_before]], -1)
    is_new = (rows < 0).any(1)
    if 2 * is_new.sum() > len(features):
        return Neighbours(*_search_all(features, size), keys)
    similarities = earlier.similarities[row_before]
    new, kept = np.flatnonzero(is_new), np.flatnonzero(~is_new)
    if len(new):
        rows[new], similarities[new] = _without_self(*search(features[new], features, size + 1), new)
        # known features get those of the new ones that are nearer than their neighbours so far
        cosines, columns = search(features[kept], features[new], min(size, len(new)))
        cosines = np.where((new[columns][:, :, None] == rows[kept][:, None, :]).any(2), -np.inf, cosines)
        candidates = np.hstack([rows[kept], new[columns]]), np.hstack([similarities[kept], cosines])
        order = np.argsort(-candidates[1], axis=1, kind="stable")[:, :size]
        rows[kept], similarities[kept] = (np.take_along_axis(side, order, 1) for side in candidates)
    return Neighbours(rows.astype(np.int32), similarities.astype(np.float32), keys)


def _search_all(features: Floats, size: int) -> tuple[Ints, Floats]:
    everyone = np.arange(len(features))
    if len(features) > APPROXIMATE_FROM and (faiss := _faiss()):
        return _without_self(*_search_approximately(features, size + 1, faiss), everyone)
    return _without_self(*search(features, features, size + 1), everyone)


def _faiss() -> Any:
    try:
        import faiss  # an optional extra
    except ImportError:
        return None
    return faiss


def _search_approximately(features: Floats, size: int, faiss: Any) -> tuple[Floats, NDArray[np.int64]]:
    cells = int(_CELLS * len(features) ** 0.5)
    index = faiss.index_factory(features.shape[1], f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
    sample = np.random.default_rng(0).choice(len(features), min(len(features), _TRAINING_FEATURES * cells), False)
    index.train(features[np.sort(sample)])
    index.add(features)
    index.nprobe = _PROBED_CELLS
    similarities, rows = index.search(features, size)
    return similarities, rows


def _without_self(similarities: Any, rows: Any, self_rows: NDArray[np.int64]) -> tuple[Ints, Floats]:
    """Remove the feature itself from its neighbours, or else the last of them."""
    drop = rows == self_rows[:, None]
    drop[~drop.any(1), -1] = True
    shape = len(rows), rows.shape[1] - 1
    return rows[~drop].reshape(shape).astype(np.int32), similarities[~drop].reshape(shape).astype(np.float32)


def _hash_rows(features: Floats) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each feature, by multiplication with random odd numbers."""
    multipliers = np.random.default_rng(0).integers(0, 1 << 63, features.shape[1], np.uint64) * 2 + 1
    parts = [
        np.einsum("ij,j->i", features[start : start + _HASHED].view(np.uint32).astype(np.uint64), multipliers)
        for start in range(0, len(features), _HASHED)
    ]
    return np.concatenate([np.empty(0, np.uint64), *parts])


def _match(keys: NDArray[np.uint64], earlier: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the row of each key among the earlier ones; -1 for new keys, and for keys that occur twice."""
    unique_keys, first, counts = np.unique(earlier, return_index=True, return_counts=True)
    at = np.minimum(np.searchsorted(unique_keys, keys), len(unique_keys) - 1)
    _, inverse, own_counts = np.unique(keys, return_inverse=True, return_counts=True)
    is_known = (unique_keys[at] == keys) & (counts[at] == 1) & (own_counts[inverse] == 1)
    return np.where(is_known, first[at], -1)
