"""The result of a verification protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Result:
    """The scores, thresholds and accuracies of a model on verification pairs.

    Attributes:
        protocol: name of the protocol.
        accuracy: (F,) float64, the share of correct decisions in each test fold.
        threshold: (F,) float64, chosen on the other folds.
        scores: (P,) float64, the cosine of each pair in the space of its own test fold.
        same: (P,) bool, True for pairs of the same person.
        fold: (P,) int64, 0-based fold of each pair.
        ties: the decision on a score equal to the threshold: `different`, `same`, or `wrong` for either kind of pair.
        mirrored: whether the features of mirror images were used; None if that is not known.
    """

    protocol: str
    accuracy: _Floats
    threshold: _Floats
    scores: _Floats
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]
    ties: Literal["wrong", "different", "same"] = "wrong"
    mirrored: bool | None = None

    @property
    def mean(self) -> float:
        """The mean of the fold accuracies."""
        return float(self.accuracy.mean())

    @property
    def std(self) -> float:
        """The sample standard deviation of the fold accuracies (divisor F - 1); 0 for a single fold."""
        return float(self.accuracy.std(ddof=1)) if len(self.accuracy) > 1 else 0.0

    @property
    def standard_error(self) -> float:
        """The standard error of the mean, std / sqrt(F): the S_E of LFW's technical report.

        For a single fold, the standard error of a proportion of P independent pairs, sqrt(p (1 - p) / P).
        """
        if len(self.accuracy) > 1:
            return self.std / float(np.sqrt(len(self.accuracy)))
        return float(np.sqrt(self.mean * (1 - self.mean) / len(self.scores)))

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(P,) bool, True where the threshold of the fold decides the pair correctly; see `ties`."""
        threshold = self.threshold[self.fold]
        accepted = self.scores >= threshold if self.ties == "same" else self.scores > threshold
        return np.asarray((accepted == self.same) & ((self.ties != "wrong") | (self.scores != threshold)))

    def to_dict(self) -> dict[str, Any]:
        """Convert the result to JSON data."""
        return {
            "protocol": self.protocol,
            "mean": self.mean,
            "std": self.std,
            "standard_error": self.standard_error,
            "accuracy": self.accuracy.tolist(),
            "threshold": self.threshold.tolist(),
            "scores": self.scores.tolist(),
            "same": self.same.tolist(),
            "fold": self.fold.tolist(),
            "ties": self.ties,
            "mirrored": self.mirrored,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Result:
        """Restore a result from the data of `to_dict`."""
        kinds = {"accuracy": np.float64, "threshold": np.float64, "scores": np.float64, "same": bool, "fold": np.int64}
        arrays = {key: np.array(data[key], dtype=kind) for key, kind in kinds.items()}
        return cls(data["protocol"], **arrays, ties=data.get("ties", "wrong"), mirrored=data.get("mirrored"))
