"""What a similarity means: the scores of a model on its verification pairs, and the decision at a false accept rate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sfplus.errors import UsageError, WeightsError
from sfplus.io.files import write_atomically
from sfplus.weights import MEAN

_REMEDY = "make it with: sfplus export"


def similarity(first: NDArray[np.float32], second: NDArray[np.float32], mean: NDArray[np.float32]) -> Any:
    """Cosine of features (..., D) after the mean feature (D,) of the verification set is taken away, in [-1, 1]."""
    a, b = np.float64(first) - mean, np.float64(second) - mean
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


@dataclass(frozen=True, eq=False)
class Judge:
    """A model's verification set.

    Attributes:
        mean: (D,) float32, the mean feature.
        same: (S,) float32, rising: the similarities of its pairs of one person; empty where the model was exported
            without them.
        different: (N,) float32, rising: those of its pairs of two people.
        about: what `config.json` says of the verification: `threshold`, `accuracy`, `pairs`, `protocol`.
    """

    mean: NDArray[np.float32]
    same: NDArray[np.float32]
    different: NDArray[np.float32]
    about: dict[str, Any]

    @classmethod
    def load(cls, folder: Path, config: dict[str, Any]) -> Judge:
        """The judge of a model.

        Raises:
            UsageError: the model was never verified.
            WeightsError: its file is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        about = config.get("verification")
        if not about or not (folder / MEAN).is_file():
            raise UsageError("this model has no threshold", where=folder, remedy=_REMEDY)
        try:
            tensors = load_file(folder / MEAN)
            none = np.zeros(0, np.float32)
            return cls(tensors["mean"], tensors.get("same", none), tensors.get("different", none), about)
        except (OSError, SafetensorError, KeyError) as error:
            raise WeightsError(f"is damaged ({error})", where=folder / MEAN, remedy=_REMEDY) from None

    @classmethod
    def of_pairs(cls, left: NDArray[Any], right: NDArray[Any], same: NDArray[np.bool_]) -> Judge:
        """The judge that features (P, D) of verified pairs make."""
        mean = np.concatenate([left, right]).mean(0, dtype=np.float64).astype(np.float32)
        scores = similarity(left, right, mean).astype(np.float32)
        return cls(mean, np.sort(scores[same]), np.sort(scores[~same]), {})

    def save(self, folder: Path) -> None:
        """Write `mean.safetensors`."""
        from safetensors.numpy import save

        tensors = {"mean": self.mean, "same": self.same, "different": self.different}
        write_atomically(folder / MEAN, save(tensors))

    def threshold(self, far: float | None = None) -> float:
        """The similarity above which two faces are taken for one person's.

        Args:
            far: the largest false accept rate on the verification set; None: the threshold of the verification.

        Raises:
            UsageError: the set has too few pairs of two people for this rate, or the model does not have their scores.
        """
        if far is None:
            return float(self.about["threshold"])
        count = len(self.different)
        if not count:
            raise UsageError("this model was exported without scores", where=f"FAR {far:g}", remedy="export it again")
        if not 0 < far < 1:
            raise UsageError("is no rate between 0 and 1", where=f"FAR {far:g}", remedy="use for example 0.001")
        allowed = int(far * count + 1e-9)
        if not allowed:
            reason = f"{count:,} pairs of two people cannot show a rate below {1 / count:.2g}"
            remedy = f"ask for {1 / count:.2g} or more, or verify on more pairs"
            raise UsageError(reason, where=f"FAR {far:g}", remedy=remedy)
        return float(self.different[-allowed - 1])

    def rates(self, threshold: float) -> tuple[float, float]:
        """FAR and TAR on the verification set of the decision `similarity > threshold`."""
        return _above(self.different, threshold) / len(self.different), _above(self.same, threshold) / len(self.same)

    def say(self, score: float, far: float | None = None) -> str:
        """The decision on a similarity, and what it rests on, as two or three lines.

        Raises:
            UsageError: as `threshold`.
        """
        threshold, score = self.threshold(far), float(np.float32(score))
        lines = [f"similarity {score:.3f}: {'same person' if score > threshold else 'different people'}"]
        if far is None:
            lines.append(
                f"decided at {threshold:.3f}, the threshold on {self.about['pairs']}, where "
                f"{100 * self.about['accuracy']:.2f} % of decisions are right ({self.about['protocol']} protocol)"
            )
        else:
            lines.append(f"decided at {threshold:.3f}, FAR {far:g}: {self._measured(threshold)}")
        if len(self.same):
            accepts, hits = (_above(scores, score, "left") / len(scores) for scores in (self.different, self.same))
            lines.append(
                f"of {self.about['pairs']}, {_percent(accepts)} of those of two people score as high, "
                f"and {_percent(hits)} of those of one person"
            )
        return "\n".join(lines)

    def _measured(self, threshold: float) -> str:
        from scipy.stats import binomtest

        accepted, count = _above(self.different, threshold), len(self.different)
        interval = binomtest(accepted, count).proportion_ci()
        return (
            f"{accepted} of {count:,} pairs of two people are accepted (95 % interval {_percent(interval.low)} to "
            f"{_percent(interval.high)}), and {_percent(self.rates(threshold)[1])} of those of one person"
        )


def _above(scores: NDArray[np.float32], threshold: float, side: Literal["left", "right"] = "right") -> int:
    """How many of rising scores lie above a threshold; with `left`, how many reach it."""
    return len(scores) - int(np.searchsorted(scores, np.float32(threshold), side=side))


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"
