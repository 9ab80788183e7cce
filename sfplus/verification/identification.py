"""Identification: who is this, among the people of a gallery, and among a million strangers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfplus.errors import DependencyError, PairsError

_Singles = NDArray[np.float32]
_Ints = NDArray[np.int64]
_SCORES = 1 << 22  # scores in memory at a time: 16 MiB, which stay in the processor's cache
_PROBES, _NUMBERS = 1024, 1 << 22  # probes, and numbers of gallery features, in one matrix product
_TIE = np.float32(1e-6)  # cosines closer than single precision tells apart


@dataclass(frozen=True, eq=False)
class Identification:
    """Where the probes' own people stand among all.

    Attributes:
        rank: (N,) int64, the rank of the probe's own person, 1 for the best; 0 for a probe whose person is not in the
            gallery. Ties count against the model.
        best: (N,) float32, the highest cosine to anybody else.
        mate: (N,) float32, the cosine to the probe's own person, not a number where the gallery lacks it.
        gallery: how many people (and distractors) were searched.
    """

    rank: _Ints
    best: _Singles
    mate: _Singles
    gallery: int

    @property
    def mated(self) -> NDArray[np.bool_]:
        """(N,) bool, whether the probe's person is in the gallery."""
        return self.rank > 0

    def rate(self, rank: int = 1) -> float:
        """Rank-k identification rate: share of mated probes whose person is among the `rank` best."""
        return float((self.rank[self.mated] <= rank).mean())

    def cmc(self, ranks: int) -> NDArray[np.float64]:
        """Cumulative match characteristic: the rates at ranks 1 to `ranks`."""
        counts = np.bincount(self.rank[self.mated], minlength=ranks + 1)
        return np.asarray(counts[1 : ranks + 1].cumsum() / self.mated.sum())

    def tpir_at_fpir(self, fpir: float, rank: int = 1) -> float | None:
        """Open-set rate: share of mated probes whose person is found at a false positive identification rate.

        FPIR is the share of probes without a mate for which somebody reaches the threshold; TPIR is the share of mated
        probes whose own person reaches it and is among the `rank` best (ISO/IEC 19795-1; NIST FRVT 1:N). None when
        there are too few probes without a mate to measure that FPIR: with n of them the smallest is 1 / n.
        """
        others = np.sort(self.best[~self.mated])[::-1]
        allowed = int(np.floor(fpir * len(others) + 1e-9))
        if not allowed:
            return None
        hits = self.rank[self.mated] <= rank
        if allowed < len(others):  # above the first that must stay below
            hits &= self.mate[self.mated] > others[allowed]
        return float(hits.mean())


def identify(
    probes: ArrayLike,
    probe_ids: ArrayLike,
    gallery: ArrayLike,
    gallery_ids: ArrayLike,
    distractors: ArrayLike | Iterable[ArrayLike] = (),
) -> Identification:
    """Search for each probe in a gallery with one feature for each person, by cosine in single precision.

    Args:
        probes: (N, d) features.
        probe_ids: (N,) whom they show; probes of people who are not in the gallery are those of the open set.
        gallery: (G, d) features.
        gallery_ids: (G,) their people, each once (average the features of a person first).
        distractors: further features (M, d) of people who are no probes, or an iterable of blocks of them, which is
            read once and never held whole.

    Raises:
        PairsError: shapes do not fit, a person is twice in the gallery, or a feature is not finite or has no direction.
    """
    queries, known = _unit(probes, "probes"), _unit(gallery, "gallery")
    ids, people = np.asarray(probe_ids), np.asarray(gallery_ids)
    if ids.shape != (len(queries),) or people.shape != (len(known),) or queries.shape[1] != known.shape[1]:
        reason = f"probes {queries.shape} of {ids.shape}, gallery {known.shape} of {people.shape} do not fit"
        raise PairsError(reason)
    order = np.argsort(people, kind="stable")
    if (people[order][1:] == people[order][:-1]).any():
        raise PairsError("a person is twice in the gallery", remedy="average the features of each person first")
    at = np.minimum(np.searchsorted(people[order], ids), len(people) - 1)
    row = np.where(people[order][at] == ids, order[at], -1)
    mated = row >= 0
    mate = np.full(len(queries), np.nan, np.float32)
    mate[mated] = np.einsum("ij,ij->i", queries[mated], known[row[mated]])
    least = np.where(mated, mate - _TIE, np.float32(np.inf))
    best, rank = np.full(len(queries), -np.inf, np.float32), mated.astype(np.int64)
    searched = 0
    for part, start, scores in _products(queries, _chain(known, distractors)):
        own = row[part] - start
        inside = np.flatnonzero((own >= 0) & (own < scores.shape[1]) & mated[part])
        scores[inside, own[inside]] = -np.inf
        top = scores.max(1)
        best[part] = np.maximum(best[part], top)
        beaten = np.flatnonzero(top >= least[part])
        rank[part][beaten] += (scores[beaten] >= least[part][beaten, None]).sum(1)
        searched = start + scores.shape[1]
    return Identification(rank, best, mate, searched)


def megaface(
    features: ArrayLike,
    people: ArrayLike,
    distractors: ArrayLike | Iterable[ArrayLike],
    sizes: Sequence[int] = (10, 100, 1_000, 10_000, 100_000, 1_000_000),
) -> dict[int, float]:
    """MegaFace's rank-1 identification rate against growing numbers of distractors.

    Each photo in turn stands in the gallery among the distractors, and all other photos of its person are searched
    for (Kemelmacher-Shlizerman et al., CVPR 2016, challenge 1). Ties count against the model.

    Args:
        features: (N, d) features of photos of people (FaceScrub).
        people: (N,) whom they show; people with one photo are left out.
        distractors: as in `identify`; the first 10, 100 ... of them are used, so their order should be random.
        sizes: numbers of distractors; those that there are not enough distractors for are left out.

    Returns:
        The rate at each size.

    Raises:
        PairsError: shapes do not fit, nobody has two photos, or a feature is not finite or has no direction.
    """
    queries, ids = _unit(features, "features"), np.asarray(people)
    if ids.shape != (len(queries),):
        raise PairsError(f"features {queries.shape} of people {ids.shape} do not fit")
    probes: list[_Ints] = []
    mates: list[_Singles] = []
    for part, start, scores in _products(queries, iter([queries])):
        same = ids[part, None] == ids[start : start + scores.shape[1]]
        rows = np.arange(part.start, part.start + len(scores))
        same &= rows[:, None] != np.arange(start, start + scores.shape[1])
        first, second = np.nonzero(same)
        probes.append(rows[first])
        mates.append(scores[first, second])
    probe, mate = np.concatenate(probes), np.concatenate(mates)
    if not len(probe):
        raise PairsError("nobody has two photos", remedy="give several photos of each person")
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
    """The k nearest of a gallery to each probe, by cosine in single precision; exact.

    Args:
        probes: (N, d) features.
        gallery: (G, d) features or an iterable of blocks of them, which is read once and never held whole.
        k: how many; fewer are found where the gallery is smaller.
        engine: what multiplies and sorts; faiss is an optional extra.

    Returns:
        Cosines (N, k), falling, and rows of the gallery (N, k).

    Raises:
        PairsError: shapes do not fit, or a feature is not finite or has no direction.
        DependencyError: faiss is not installed.
    """
    queries = _unit(probes, "probes")
    best, rows = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
    if engine == "faiss":
        knn = _faiss()
        for start, piece in _pieces(queries.shape[1], _chain(gallery), _NUMBERS // queries.shape[1] + 1):
            _merge(best, rows, *knn(queries, piece, min(k, len(piece))), start)
        return best[:, rows[0] >= 0], rows[:, rows[0] >= 0]
    for part, start, scores in _products(queries, _chain(gallery)):
        better = np.flatnonzero(scores.max(1) > best[part, -1]) + part.start
        chosen = scores[better - part.start]
        n = min(k, scores.shape[1])
        columns = np.argpartition(chosen, -n, axis=1)[:, -n:]
        held = best[better], rows[better]
        _merge(*held, np.take_along_axis(chosen, columns, 1), columns, start)
        best[better], rows[better] = held
    return best[:, rows[0] >= 0], rows[:, rows[0] >= 0]


def _merge(best: _Singles, rows: _Ints, scores: _Singles, columns: _Ints, start: int) -> None:
    """Put the better of what is held and what a block gave into `best` and `rows`, highest first."""
    everything, every_row = np.hstack([best, scores]), np.hstack([rows, columns + start])
    order = np.argsort(-everything, axis=1, kind="stable")[:, : best.shape[1]]
    best[:], rows[:] = np.take_along_axis(everything, order, 1), np.take_along_axis(every_row, order, 1)


def _faiss() -> Callable[[_Singles, _Singles, int], tuple[_Singles, _Ints]]:
    try:
        import faiss
    except ImportError as error:
        raise DependencyError("faiss is not installed", remedy="pip install 'sfplus[faiss]'") from error
    return lambda probes, gallery, k: faiss.knn(probes, gallery, k, metric=faiss.METRIC_INNER_PRODUCT)


def _chain(*sources: ArrayLike | Iterable[ArrayLike]) -> Iterator[NDArray[np.generic]]:
    """Blocks of features of arrays and of iterables of arrays."""
    for source in sources:
        if isinstance(source, np.ndarray):
            yield source
        else:
            for block in source:  # type: ignore[union-attr]
                yield np.asarray(block)


def _products(
    probes: _Singles, blocks: Iterator[NDArray[np.generic]], stops: Sequence[int] = ()
) -> Iterator[tuple[slice, int, _Singles]]:
    """Cosines of probes and a gallery, block by block.

    Yields a slice of the probes, the first row of the gallery's block and their cosines, which the next block
    overwrites. No block of the gallery crosses one of the `stops`.
    """
    parts = [slice(start, min(start + _PROBES, len(probes))) for start in range(0, len(probes), _PROBES)]
    most = max(1, min(_SCORES // min(len(probes), _PROBES), _NUMBERS // probes.shape[1]))
    memory = np.empty(min(len(probes), _PROBES) * most, np.float32)
    for start, piece in _pieces(probes.shape[1], blocks, most, stops):
        for part in parts:
            queries = probes[part]
            scores = memory[: len(queries) * len(piece)].reshape(len(queries), -1)
            yield part, start, np.matmul(queries, piece.T, out=scores)


def _pieces(
    width: int, blocks: Iterator[NDArray[np.generic]], most: int, stops: Sequence[int] = ()
) -> Iterator[tuple[int, _Singles]]:
    """Cut a gallery into pieces of unit features (at most `most`, width); each with its first row in the gallery."""
    start = 0
    for block in blocks:
        if block.ndim != 2 or block.shape[1] != width:
            raise PairsError(f"gallery {block.shape} does not fit probes of {width} numbers")
        at = 0
        while at < len(block):
            size = min([most, len(block) - at, *(stop - start for stop in stops if stop > start)])
            yield start, _unit(block[at : at + size], "gallery features")
            start, at = start + size, at + size


def _unit(values: ArrayLike, name: str) -> _Singles:
    features = np.asarray(values, np.float32)
    if features.ndim != 2 or not features.size:
        raise PairsError(f"{name} must be (N, d) features, not {features.shape}")
    norms = np.sqrt(np.einsum("ij,ij->i", features, features))
    bad = ~(np.isfinite(norms) & (norms > 0))
    if bad.any():
        reason = f"{int(bad.sum())} of {len(bad)} {name} are not finite or zero, the first in row {int(bad.argmax())}"
        raise PairsError(reason, remedy="check the model, and the crops of these photos")
    return np.asarray(features / norms[:, None], np.float32)
