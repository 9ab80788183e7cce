"""Identification of a face among the people of a gallery and up to millions of distractors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfplus.errors import DependencyError, PairsError
from sfplus.io.extras import install_command
from sfplus.verification.pair_features import dots

_Singles = NDArray[np.float32]
_Ints = NDArray[np.int64]
_SCORES = 1 << 22  # scores in memory at a time: 16 MiB, which fit in the processor's cache
_PROBES, _NUMBERS = 1024, 1 << 22  # probes, and floats of gallery features, in one matrix product
_ROWS = 64  # probes whose scores are used at a time: 1 MiB, which fit in the cache of a core
_TIE = np.float32(1e-6)  # cosines that differ by less are ties in single precision


@dataclass(frozen=True, eq=False)
class Identification:
    """Result of searching for probes in a gallery. The mate of a probe is the gallery entry of the same person.

    Attributes:
        rank: (N,) int64, the rank of the mate, 1 for the best; 0 for a probe without a mate. Ties count against the
            model.
        nonmate_score: (N,) float32, the highest cosine to a different person.
        mate_score: (N,) float32, the cosine to the mate; NaN for a probe without a mate.
        gallery_size: the number of people and distractors that were searched.
    """

    rank: _Ints
    nonmate_score: _Singles
    mate_score: _Singles
    gallery_size: int

    @property
    def mated(self) -> NDArray[np.bool_]:
        """(N,) bool, True for probes whose person is in the gallery."""
        return self.rank > 0

    def rate(self, rank: int = 1) -> float:
        """Return the rank-k identification rate, the share of mated probes whose mate is among the `rank` best."""
        return float((self.rank[self.mated] <= rank).mean())

    def cmc(self, ranks: int) -> NDArray[np.float64]:
        """Return the cumulative match characteristic (ranks,), the identification rates at ranks 1 to `ranks`."""
        counts = np.bincount(self.rank[self.mated], minlength=ranks + 1)
        return np.asarray(counts[1 : ranks + 1].cumsum() / self.mated.sum())

    def tpir_at_fpir(self, fpir: float, rank: int = 1) -> float | None:
        """Return the open-set identification rate (TPIR) at a false positive identification rate (FPIR).

        FPIR is the share of probes without a mate for which any score reaches the threshold; TPIR is the share of mated
        probes whose mate reaches it and is among the `rank` best (ISO/IEC 19795-1; NIST FRVT 1:N). With n probes
        without a mate the smallest FPIR is 1 / n; the result is None below it.
        """
        false_scores = np.sort(self.nonmate_score[~self.mated])[::-1]
        allowed = int(np.floor(fpir * len(false_scores) + 1e-9))
        if not allowed:
            return None
        hits = self.rank[self.mated] <= rank
        if allowed < len(false_scores):  # the threshold lies above the first score that must be rejected
            hits &= self.mate_score[self.mated] > false_scores[allowed]
        return float(hits.mean())


def identify(
    probes: ArrayLike,
    probe_ids: ArrayLike,
    gallery: ArrayLike,
    gallery_ids: ArrayLike,
    distractors: ArrayLike | Iterable[ArrayLike] = (),
) -> Identification:
    """Search for each probe in a gallery with one feature per person, by cosine in single precision.

    Args:
        probes: (N, d) features.
        probe_ids: (N,) identities of the probes; those not in the gallery form the open set.
        gallery: (G, d) features.
        gallery_ids: (G,) identities of the gallery, without duplicates (average the features of a person first).
        distractors: further features (M, d) of people who are not among the probes, or an iterable of blocks of them,
            which is read once and never held in memory as a whole.

    Raises:
        PairsError: If shapes do not fit, a person is in the gallery twice, or a feature is not finite or zero.
    """
    queries, entries = _unit(probes, "probes"), _unit(gallery, "gallery")
    ids, people = np.asarray(probe_ids), np.asarray(gallery_ids)
    if ids.shape != (len(queries),) or people.shape != (len(entries),) or queries.shape[1] != entries.shape[1]:
        reason = f"probes {queries.shape} of {ids.shape}, gallery {entries.shape} of {people.shape} do not fit"
        raise PairsError(reason)
    order = np.argsort(people, kind="stable")
    if (people[order][1:] == people[order][:-1]).any():
        raise PairsError("a person is in the gallery twice", remedy="average the features of each person first")
    at = np.minimum(np.searchsorted(people[order], ids), len(people) - 1)
    row = np.where(people[order][at] == ids, order[at], -1)
    mated = row >= 0
    mate_score = np.full(len(queries), np.nan, np.float32)
    mate_score[mated] = np.einsum("ij,ij->i", queries[mated], entries[row[mated]])
    tie = np.where(mated, mate_score - _TIE, np.float32(np.inf))  # this score or a higher one ranks before the mate
    nonmate_score, rank = np.full(len(queries), -np.inf, np.float32), mated.astype(np.int64)
    searched = 0
    for part, start, scores in _products(queries, _chain(entries, distractors)):
        column = row[part] - start
        inside = np.flatnonzero((column >= 0) & (column < scores.shape[1]) & mated[part])
        scores[inside, column[inside]] = -np.inf
        top = scores.max(1)
        nonmate_score[part] = np.maximum(nonmate_score[part], top)
        if (top >= tie[part]).any():
            before = (scores >= tie[part, None]).view(np.uint8)  # narrow sums are the fastest
            rank[part] += before.sum(1, dtype=np.min_scalar_type(scores.shape[1]))
        searched = start + scores.shape[1]
    return Identification(rank, nonmate_score, mate_score, searched)


def megaface(
    features: ArrayLike,
    people: ArrayLike,
    distractors: ArrayLike | Iterable[ArrayLike],
    sizes: Sequence[int] = (10, 100, 1_000, 10_000, 100_000, 1_000_000),
) -> dict[int, float]:
    """Compute MegaFace's rank-1 identification rate for increasing numbers of distractors.

    Each photo in turn is added to the distractors as the gallery, and all other photos of the same person are the
    probes (Kemelmacher-Shlizerman et al., CVPR 2016, challenge 1). Ties count against the model.

    Args:
        features: (N, d) features of photos of people (FaceScrub).
        people: (N,) identities; people with a single photo are ignored.
        distractors: as in `identify`; the first 10, 100 ... of them are used, so their order should be random.
        sizes: numbers of distractors; sizes larger than the number of distractors are ignored.

    Returns:
        The rate at each size.

    Raises:
        PairsError: If shapes do not fit, no person has two photos, or a feature is not finite or zero.
    """
    queries, ids = _unit(features, "features"), np.asarray(people)
    if ids.shape != (len(queries),):
        raise PairsError(f"features {queries.shape} of people {ids.shape} do not fit")
    pairs: list[tuple[_Ints, _Singles]] = []  # probes, and their cosines to the photo in the gallery
    for part, start, scores in _products(queries, iter([queries])):
        same = ids[part, None] == ids[start : start + scores.shape[1]]
        rows = np.arange(part.start, part.stop)
        same &= rows[:, None] != np.arange(start, start + scores.shape[1])
        first, second = np.nonzero(same)
        pairs.append((rows[first], scores[first, second]))
    probe, mate = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    if not len(probe):
        raise PairsError("no person has two photos", remedy="give several photos of each person")
    best = np.full(len(queries), -np.inf, np.float32)
    rates = {}
    for part, start, scores in _products(queries, _chain(distractors), sorted(sizes)):
        best[part] = np.maximum(best[part], scores.max(1))
        done = start + scores.shape[1]
        if done in sizes and part.stop == len(queries):
            rates[done] = float((mate - _TIE > best[probe]).mean())
    return rates


def search(
    probes: ArrayLike,
    gallery: ArrayLike | Iterable[ArrayLike],
    k: int,
    engine: Literal["numpy", "faiss"] = "numpy",
) -> tuple[_Singles, _Ints]:
    """Find the k nearest gallery entries of each probe, by cosine in single precision; the search is exact.

    Args:
        probes: (N, d) features.
        gallery: (G, d) features or an iterable of blocks of them, which is read once and never held in memory as a
            whole.
        k: number of neighbours; fewer are returned if the gallery is smaller.
        engine: the library that multiplies and sorts; faiss is an optional extra.

    Returns:
        Cosines (N, k), descending, and rows of the gallery (N, k).

    Raises:
        PairsError: If shapes do not fit, or a feature is not finite or zero.
        DependencyError: If faiss is not installed.
    """
    queries = _unit(probes, "probes")
    best, rows = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
    if engine == "faiss":
        knn = _faiss()
        for start, piece in _pieces(queries.shape[1], _chain(gallery), _NUMBERS // queries.shape[1] + 1):
            _merge(best, rows, *knn(queries, _unit(piece, "gallery features"), min(k, len(piece))), start)
        return best[:, rows[0] >= 0], rows[:, rows[0] >= 0]
    for part, start, scores in _products(queries, _chain(gallery)):
        better = np.flatnonzero(scores.max(1) > best[part, -1]) + part.start
        candidates = scores[better - part.start]
        n = min(k, scores.shape[1])
        columns = np.argpartition(candidates, -n, axis=1)[:, -n:]
        current = best[better], rows[better]
        _merge(*current, np.take_along_axis(candidates, columns, 1), columns, start)
        best[better], rows[better] = current
    return best[:, rows[0] >= 0], rows[:, rows[0] >= 0]


def _merge(best: _Singles, rows: _Ints, scores: _Singles, columns: _Ints, start: int) -> None:
    """Merge the best scores of a block that starts at row `start` into `best` and `rows`, in place, highest first."""
    all_scores, all_rows = np.hstack([best, scores]), np.hstack([rows, columns + start])
    order = np.argsort(-all_scores, axis=1, kind="stable")[:, : best.shape[1]]
    best[:], rows[:] = np.take_along_axis(all_scores, order, 1), np.take_along_axis(all_rows, order, 1)


def _faiss() -> Callable[[_Singles, _Singles, int], tuple[_Singles, _Ints]]:
    try:
        import faiss  # an optional extra
    except ImportError as error:
        raise DependencyError("faiss is not installed", remedy=install_command("faiss")) from error
    return lambda probes, gallery, k: faiss.knn(probes, gallery, k, metric=faiss.METRIC_INNER_PRODUCT)


def _chain(*sources: ArrayLike | Iterable[ArrayLike]) -> Iterator[NDArray[np.generic]]:
    """Yield blocks of features from arrays and from iterables of arrays."""
    for source in sources:
        if isinstance(source, np.ndarray):
            yield source
        else:
            for block in source:  # type: ignore[union-attr]
                yield np.asarray(block)


def _products(
    probes: _Singles, blocks: Iterator[NDArray[np.generic]], stops: Sequence[int] = ()
) -> Iterator[tuple[slice, int, _Singles]]:
    """Yield the cosines of some probes and a block of the gallery, block by block.

    Each item is a slice of the probes, the first row of the gallery's block and their cosines, which later items
    overwrite. No block of the gallery crosses one of the `stops`.
    """
    parts = [slice(start, min(start + _PROBES, len(probes))) for start in range(0, len(probes), _PROBES)]
    size = max(1, min(_SCORES // min(len(probes), _PROBES), _NUMBERS // probes.shape[1]))
    memory = np.empty(min(len(probes), _PROBES) * size, np.float32)
    for start, piece in _pieces(probes.shape[1], blocks, size, stops):
        scale = 1 / _norms(piece, "gallery features")  # of the scores, which are in the cache, not of the features
        for part in parts:
            queries = probes[part]
            scores = memory[: len(queries) * len(piece)].reshape(len(queries), -1)
            np.matmul(queries, piece.T, out=scores)
            for at in range(part.start, part.stop, _ROWS):
                rows = slice(at, min(at + _ROWS, part.stop))
                few = scores[at - part.start : rows.stop - part.start]
                few *= scale
                yield rows, start, few


def _pieces(
    width: int, blocks: Iterator[NDArray[np.generic]], limit: int, stops: Sequence[int] = ()
) -> Iterator[tuple[int, _Singles]]:
    """Yield the features of a gallery in pieces (at most `limit`, width), each with its first row in the gallery."""
    start = 0
    for block in blocks:
        if block.ndim != 2 or block.shape[1] != width:
            raise PairsError(f"gallery {block.shape} does not fit probes of width {width}")
        at = 0
        while at < len(block):
            size = min([limit, len(block) - at, *(stop - start for stop in stops if stop > start)])
            yield start, np.asarray(block[at : at + size], np.float32)
            start, at = start + size, at + size


def _unit(values: ArrayLike, name: str) -> _Singles:
    features = np.asarray(values, np.float32)
    if features.ndim != 2 or not features.size:
        raise PairsError(f"{name} must be (N, d) features, not {features.shape}")
    return np.asarray(features / _norms(features, name)[:, None])


def _norms(features: _Singles, name: str) -> _Singles:
    norms = np.sqrt(dots(features, features))
    bad = ~(np.isfinite(norms) & (norms > 0))
    if bad.any():
        reason = f"{int(bad.sum())} of {len(bad)} {name} are zero or not finite, the first in row {int(bad.argmax())}"
        raise PairsError(reason, remedy="check the model, and the crops of these photos")
    return np.asarray(norms)
