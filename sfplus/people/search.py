"""Search for the faces of a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from sfplus.errors import UsageError
from sfplus.verification.decision import DecisionRule

_LISTED = 0.01  # probability of the photos that are listed
_BLOCK = 65_536  # features at once
_ROUNDS, _TOLERANCE = 200, 1e-6


@dataclass(frozen=True, eq=False)
class Matches:
    """Faces by descending similarity to the person that was searched for.

    Attributes:
        rows: int64 (M,), the rows of the features.
        similarities: float32 (M,), their cosines to the mean of the examples.
        probabilities: float32 (M,), how likely each shows this person; NaN for a model without scores of pairs.
    """

    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]
    probabilities: NDArray[np.float32]

    def __iter__(self) -> Iterator[tuple[int, float, float]]:
        """Yield row, similarity and probability of each face."""
        columns = self.rows, self.similarities, self.probabilities
        return zip(*(column.tolist() for column in columns), strict=True)

    @property
    def has_probabilities(self) -> bool:
        """True if the model has scores, from which probabilities follow."""
        return not np.isnan(self.probabilities).any()

    def first(self, count: int) -> Matches:
        """Return the most similar faces."""
        return self._select(slice(count))

    def best_by_photo(self, photos: Sequence[str], least: int) -> Matches:
        """Return the most similar face of each photo that has a probability of 1 %; without probabilities, of all.

        Args:
            photos: The photo of each row of the features.
            least: The number of photos to return if fewer are as probable.
        """
        best = np.sort(np.unique(np.array(photos, object)[self.rows], return_index=True)[1])
        if self.has_probabilities:
            best = best[: max(least, int((self.probabilities[best] >= _LISTED).sum()))]
        return self._select(best)

    def _select(self, part: slice | NDArray[np.int64]) -> Matches:
        return Matches(self.rows[part], self.similarities[part], self.probabilities[part])


def search_faces(examples: NDArray[np.floating], features: NDArray[np.floating], rule: DecisionRule | None) -> Matches:
    """Compare a person with all faces of a collection.

    The probability that a face is right combines the similarity, by the scores of the model's verification pairs, with
    the share of faces in the collection that show this person, which is estimated from the collection itself by
    expectation maximisation (Saerens et al. 2002): among a thousand strangers, some are similar by chance.

    Args:
        examples: (D,) or (Q, D), features of the person.
        features: (N, D), features of the faces, of which blocks are read at a time.
        rule: The decision rule of the model, whose mean is subtracted from all; None to subtract nothing.

    Raises:
        UsageError: If the features have another length.
    """
    if examples.shape[-1] != features.shape[1]:
        reason = f"the examples have {examples.shape[-1]} numbers, the features {features.shape[1]}"
        raise UsageError(reason, where="search", remedy="compute both with the same model")
    mean = rule.mean if rule else 0
    person = _unit(np.atleast_2d(examples) - mean).mean(0, keepdims=True)
    blocks = (features[start : start + _BLOCK] - mean for start in range(0, len(features), _BLOCK))
    similarities = np.concatenate([np.empty(0, np.float32), *(_unit(block) @ _unit(person)[0] for block in blocks)])
    similarities = similarities.astype(np.float32)
    rows = np.argsort(-similarities, kind="stable")
    evidence = rule.log_likelihood_ratio(similarities) if rule and rule.has_scores else np.full(len(rows), np.nan)
    probabilities = posterior(evidence).astype(np.float32)
    return Matches(rows, similarities[rows], probabilities[rows])


def posterior(evidence: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the probability of each of N cases, whose share is estimated from the cases themselves.

    Args:
        evidence: (N,) logarithms of likelihood ratios.
    """
    if not len(evidence) or np.isnan(evidence).any():
        return np.full(len(evidence), np.nan)
    share, smallest = 0.5, 1 / (len(evidence) + 1)
    for _ in range(_ROUNDS):
        before, share = share, max(float(expit(logit(share) + evidence).mean()), smallest)
        share = min(share, 1 - smallest)
        if abs(share - before) < _TOLERANCE * share:
            break
    return np.asarray(expit(logit(share) + evidence), np.float64)


def _unit(features: NDArray[np.floating]) -> NDArray[np.floating]:
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, np.finfo(np.float32).tiny))
