"""The decision whether two faces show the same person, with the error rates measured on the verification pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from safetensors.numpy import save as save_tensors

from sfplus.errors import UsageError, WeightsError, explain_damage
from sfplus.io.files import write_atomically
from sfplus.io.tensor_files import check_tensor_list
from sfplus.weights import CONFIG, MEAN

FARS = (0.1, 0.01, 0.001, 0.0001)
_REGULARISATION = 100.0  # weak: it only keeps the slope finite where the scores do not overlap
_REMEDY = "measure it again: sfplus calibrate MODEL PHOTOS PAIRS"


def similarity(first: NDArray[np.float32], second: NDArray[np.float32], mean: NDArray[np.float32] | float = 0) -> Any:
    """Return the cosine similarity of features after subtracting the mean feature of the verification set.

    Args:
        first: (..., D) float32.
        second: (..., D) float32.
        mean: (D,) float32; 0 to subtract nothing.

    Returns:
        float64 of shape (...), in [-1, 1].
    """
    a, b = (np.asarray(side, np.float64) - mean for side in (first, second))
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


@dataclass(frozen=True, eq=False)
class DecisionRule:
    """The threshold of a verified model, with the scores of its verification pairs.

    Attributes:
        mean: (D,) float32, the mean feature.
        same: (S,) float32, ascending: similarities of the pairs of the same person; empty if the model was exported
            without scores.
        different: (N,) float32, ascending: similarities of the pairs of different people.
        verification: the entry `verification` of `config.json`: `threshold`, `accuracy`, `pairs`, `protocol`.
    """

    mean: NDArray[np.float32]
    same: NDArray[np.float32]
    different: NDArray[np.float32]
    verification: dict[str, Any]

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any]) -> DecisionRule | None:
        """Load the decision rule of a model; None if the model has no threshold.

        Args:
            folder: the model folder, with `mean.safetensors`; a model that is a file or a function has no threshold.
            config: its `config.json`.

        Raises:
            WeightsError: If the threshold or the file is damaged, or has numbers that are not finite.
        """
        verification = config.get("verification")
        if not verification or not folder.is_dir():
            return None
        _check_verification(verification, folder / CONFIG)
        if not (folder / MEAN).is_file():
            raise WeightsError("there is no such file", where=folder / MEAN, remedy=_REMEDY)
        check_tensor_list(folder / MEAN, WeightsError)
        with explain_damage(folder / MEAN, remedy=_REMEDY, error=WeightsError):
            tensors = load_file(folder / MEAN)
            mean = tensors["mean"]
        empty = np.zeros(0, np.float32)
        rule = cls(mean, tensors.get("same", empty), tensors.get("different", empty), verification)
        for name, values in (("mean", mean), ("same", rule.same), ("different", rule.different)):
            if values.ndim != 1 or values.dtype != np.float32 or not np.isfinite(values).all():
                reason = f"its '{name}' is not a row of finite float32 numbers"
                raise WeightsError(reason, where=folder / MEAN, remedy=_REMEDY)
            if name != "mean" and not _are_scores(values):
                reason = f"its '{name}' are not similarities in ascending order"
                raise WeightsError(reason, where=folder / MEAN, remedy=_REMEDY)
        size = config.get("feature_size") or len(mean)
        if len(mean) not in (size, 2 * size):
            reason = f"its mean has {len(mean)} numbers, features have {size} or {2 * size}"
            raise WeightsError(reason, where=folder / MEAN, remedy=_REMEDY)
        return rule

    @classmethod
    def from_pairs(cls, left: NDArray[Any], right: NDArray[Any], same: NDArray[np.bool_]) -> DecisionRule:
        """Compute the mean feature and the scores of verification pairs; the threshold is not included.

        Args:
            left: (P, D) features.
            right: (P, D) features.
            same: (P,) bool, True for pairs of the same person.
        """
        mean = np.concatenate([left, right]).mean(0, dtype=np.float64).astype(np.float32)
        scores = similarity(left, right, mean).astype(np.float32)
        return cls(mean, np.sort(scores[same]), np.sort(scores[~same]), {})

    def save(self, folder: Path) -> None:
        """Write `mean.safetensors` to a model folder."""
        tensors = {"mean": self.mean, "same": self.same, "different": self.different}
        write_atomically(folder / MEAN, save_tensors(tensors))

    def threshold(self, far: float | None = None) -> float:
        """Return the similarity above which two faces are accepted as the same person.

        Args:
            far: the largest false accept rate on the verification pairs; None for the threshold of the verification.

        Raises:
            UsageError: If there are too few pairs of different people for this rate, or the model was exported
                without scores.
        """
        if far is None:
            return float(self.verification["threshold"])
        count = len(self.different)
        if not count:
            raise UsageError("this model was exported without scores", where=f"FAR {far:g}", remedy="export it again")
        if not 0 < far < 1:
            raise UsageError("is not a rate between 0 and 1", where=f"FAR {far:g}", remedy="use for example 0.001")
        allowed = int(far * count + 1e-9)
        if not allowed:
            reason = f"{count:,} pairs of different people cannot resolve a rate below {1 / count:.2g}"
            remedy = f"use {1 / count:.2g} or more, or verify on more pairs"
            raise UsageError(reason, where=f"FAR {far:g}", remedy=remedy)
        return float(self.different[-allowed - 1])

    def rates(self, threshold: float) -> tuple[float, float]:
        """Return FAR and TAR on the verification pairs of the decision `similarity > threshold`."""
        return _above(self.different, threshold) / len(self.different), _above(self.same, threshold) / len(self.same)

    def count_at_least(self, score: float) -> tuple[int, int]:
        """Return how many pairs of different people, and how many of the same person, score at least as high."""
        return _above(self.different, score, "left"), _above(self.same, score, "left")

    @property
    def has_scores(self) -> bool:
        """True if the scores of the verification pairs are known."""
        return bool(len(self.same) and len(self.different))

    def log_likelihood_ratio(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return how much more likely scores are for the same person than for different people.

        Args:
            scores: Similarities of any shape.

        Returns:
            The natural logarithm of the ratio, float64 of the same shape, by a logistic regression on the scores of the
            verification pairs, in which pairs of the same person and of different people weigh the same.

        Raises:
            UsageError: If the model was exported without scores.
        """
        if not self.has_scores:
            raise UsageError("this model was exported without scores", where="probability", remedy="export it again")
        centre, scale, slope, intercept = self._logistic_regression
        return np.asarray((np.asarray(scores, np.float64) - centre) / scale * slope + intercept)

    @cached_property
    def _logistic_regression(self) -> tuple[float, float, float, float]:
        from sklearn.linear_model import LogisticRegression  # slow to import, and only needed for probabilities

        scores = np.concatenate([self.different, self.same]).astype(np.float64)
        centre, scale = float(scores.mean()), float(scores.std()) or 1.0
        is_same = np.arange(len(scores)) >= len(self.different)
        model = LogisticRegression(C=_REGULARISATION, class_weight="balanced").fit(
            (scores[:, None] - centre) / scale, is_same
        )
        return centre, scale, float(model.coef_[0, 0]), float(model.intercept_[0])

    def describe(self) -> str:
        """Return the accuracy, the threshold, and those of the usual FARs that the pairs can resolve, as lines."""
        lines = [
            f"accuracy {100 * self.verification['accuracy']:.2f} % on {self.verification['pairs']} "
            f"({self.verification['protocol']} protocol)",
            f"threshold {self.threshold():.3f} (similarity of the same person)",
        ]
        for far in FARS:
            if int(far * len(self.different) + 1e-9):
                threshold = self.threshold(far)
                lines.append(f"FAR {far:<7g} threshold {threshold:6.3f}  TAR {_percent(self.rates(threshold)[1])}")
        return "\n".join(lines)

    def explain(self, score: float, far: float | None = None) -> str:
        """Return the decision on a similarity and the error rates behind it, as two or three lines of text.

        Args:
            score: the similarity of two faces.
            far: as in `threshold`.

        Raises:
            UsageError: As in `threshold`.
            WeightsError: If the score is NaN.
        """
        threshold, score = self.threshold(far), float(np.float32(score))
        if math.isnan(score):
            reason = "does not compare these faces: their similarity is not a number"
            raise WeightsError(reason, where="model", remedy="use another model")
        lines = [f"similarity {score:.3f}: {'same person' if score > threshold else 'different people'}"]
        if far is None:
            lines.append(
                f"decided at {threshold:.3f}, the threshold on {self.verification['pairs']}, with an accuracy of "
                f"{100 * self.verification['accuracy']:.2f} % ({self.verification['protocol']} protocol)"
            )
        else:
            lines.append(f"decided at {threshold:.3f}, FAR {far:g}: {self._measured_rates(threshold)}")
        if len(self.same):
            counts = self.count_at_least(score)
            impostors, mates = counts[0] / len(self.different), counts[1] / len(self.same)
            lines.append(
                f"of {self.verification['pairs']}, {_percent(impostors)} of the pairs of different people score at "
                f"least as high, and {_percent(mates)} of the pairs of the same person"
            )
        return "\n".join(lines)

    def _measured_rates(self, threshold: float) -> str:
        from scipy.stats import binomtest  # slow to import, and needed for a FAR only

        accepted, count = _above(self.different, threshold), len(self.different)
        interval = binomtest(accepted, count).proportion_ci()
        return (
            f"{accepted} of {count:,} pairs of different people are accepted (95 % interval {_percent(interval.low)} "
            f"to {_percent(interval.high)}), and {_percent(self.rates(threshold)[1])} of the pairs of the same person"
        )


def explain_similarity(score: float, model: str) -> str:
    """Return the similarity of two faces by a model that has no threshold, and how to get one.

    Args:
        score: the cosine of the features.
        model: the model, as the user named it.
    """
    return (
        f"similarity {score:.3f}: the cosine of the features, from -1 to 1\n"
        f"{model} has no threshold to decide at; measure one on pairs: sfplus calibrate {model} PHOTOS PAIRS"
    )


def _check_verification(verification: Any, where: Path) -> None:
    """Check the numbers and texts that decisions need."""
    for key in ("threshold", "accuracy", "pairs", "protocol"):
        value = verification.get(key) if isinstance(verification, dict) else None
        expected = (int, float) if key in ("threshold", "accuracy") else str
        if not isinstance(value, expected) or (not isinstance(value, str) and not abs(value) < math.inf):
            raise WeightsError(f"its verification.{key} is {value!r:.40}", where=where, remedy=_REMEDY)


def _are_scores(values: NDArray[np.float32]) -> bool:
    """Return whether finite numbers ascend and are cosines, but for rounding."""
    return not len(values) or bool((np.diff(values) >= 0).all() and values[0] > -1.01 and values[-1] < 1.01)


def _above(scores: NDArray[np.float32], threshold: float, side: Literal["left", "right"] = "right") -> int:
    """Count the ascending scores above a threshold; with side `left`, those equal to it too."""
    return len(scores) - int(np.searchsorted(scores, np.float32(threshold), side=side))


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"
