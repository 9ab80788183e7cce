"""The result of a verification protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Result:
    """What a protocol found.

    Attributes:
        protocol: name of the protocol.
        accuracy: (F,) float64, the share of right decisions in each test fold.
        threshold: (F,) float64, chosen on the other folds.
        scores: (P,) float64, the cosine of each pair in the space of its own test fold.
        same: (P,) bool, whether the pair shows one person.
        fold: (P,) int64, 0-based fold of each pair.
        ties: what a score that equals the threshold counts as: `wrong` whatever the pair is, `different` or `same`.
    """

    protocol: str
    accuracy: _Floats
    threshold: _Floats
    scores: _Floats
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]
    ties: Literal["wrong", "different", "same"] = "wrong"

    @property
    def mean(self) -> float:
        """Mean of the fold accuracies."""
        return float(self.accuracy.mean())

    @property
    def std(self) -> float:
        """Sample standard deviation of the fold accuracies (divisor F - 1), 0 for a single fold."""
        return float(self.accuracy.std(ddof=1)) if len(self.accuracy) > 1 else 0.0

    @property
    def standard_error(self) -> float:
        """Standard error of the mean, std / sqrt(F): the S_E of LFW's technical report.

        With a single fold it is that of a share of P independent pairs, sqrt(p (1 - p) / P).
        """
        if len(self.accuracy) > 1:
            return self.std / float(np.sqrt(len(self.accuracy)))
        return float(np.sqrt(self.mean * (1 - self.mean) / len(self.scores)))

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(P,) bool, whether each pair is decided rightly by the threshold of its fold; see `ties`."""
        threshold = self.threshold[self.fold]
        accepted = self.scores >= threshold if self.ties == "same" else self.scores > threshold
        return np.asarray((accepted == self.same) & ((self.ties != "wrong") | (self.scores != threshold)))

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data, for JSON."""
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
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Result:
        """The inverse of `to_dict`."""
        kinds = {"accuracy": np.float64, "threshold": np.float64, "scores": np.float64, "same": bool, "fold": np.int64}
        arrays = {key: np.array(data[key], dtype=kind) for key, kind in kinds.items()}
        return cls(data["protocol"], **arrays, ties=data.get("ties", "wrong"))
