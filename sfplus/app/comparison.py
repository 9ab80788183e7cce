"""The comparison of two faces, without a server: the faces of a photo, and the decision in plain words."""

from __future__ import annotations

import base64
import binascii
import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from sfplus.detection import choose
from sfplus.detection.choose import Rule
from sfplus.embedder import Embedder
from sfplus.errors import UsageError
from sfplus.images import Pixels, encode_image, shrink
from sfplus.reports.jinja_filters import data_uri
from sfplus.reports.plots import decision_plot
from sfplus.verification.decision import FARS, DecisionRule, explain_similarity

_SIDE, _QUALITY = 1024, 85  # of the displayed photo: pixels of the longer side, and JPEG quality


@dataclass(frozen=True)
class Verdict:
    """The decision on two faces.

    Attributes:
        headline: "Same person", "Different people", or the similarity if the model has no threshold.
        rarity: how rare this similarity is, in plain words; "" without the scores of a verification.
        details: how it was decided.
        plot: SVG text, or "".
        same: the decision; None without a threshold.
    """

    headline: str
    rarity: str
    details: list[str]
    plot: Markup
    same: bool | None


class Comparison:
    """Computes faces and similarities with one model; threads may share it.

    Args:
        embedder: the model.
        choose: the face of a photo with several that is compared at first.
    """

    def __init__(self, embedder: Embedder, choose: Rule = "centre") -> None:
        self.embedder = embedder
        self.name = embedder.folder.name
        self._rule = embedder.decision_rule
        self._choose: Rule = choose
        self._lock = threading.Lock()  # threads share the modes of the networks and of torch

    @property
    def fars(self) -> list[float]:
        """The false accept rates that the verification pairs of the model can resolve."""
        return [far for far in FARS if self._rule and int(far * len(self._rule.different) + 1e-9)]

    def examine(self, photo: Pixels) -> dict[str, Any]:
        """Return the faces of a photo as JSON: nothing is kept, the page sends back the features that it compares.

        Args:
            photo: uint8 RGB (H, W, 3).

        Returns:
            `image`, a smaller photo; `width` and `height`, pixels; `chosen`, the index of a face; and `faces`, each
            with its `box` (left, top, width, height as fractions of the photo), `crop` and `feature`.
        """
        with self._lock:
            faces = self.embedder.faces(photo)
        height, width = photo.shape[:2]
        choice = choose(faces, height, width, self._choose)
        return {
            "image": data_uri(encode_image(shrink(photo, _SIDE), ".jpg", _QUALITY)),
            "width": width,
            "height": height,
            "chosen": choice.index if choice else None,
            "faces": [
                {"box": _fractions(box, width, height), "crop": _encode_crop(crop), "feature": encode_feature(feature)}
                for box, crop, feature in zip(faces.boxes, faces.crops, faces.features, strict=True)
            ],
        }

    def decode_feature(self, text: str) -> NDArray[np.float32]:
        """Return a feature that `examine` gave to the page.

        Raises:
            UsageError: If it is not a feature of this model.
        """
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            data = b""
        width = self.embedder.width
        feature = np.frombuffer(data, "<f4") if len(data) == 4 * width else np.full(width, np.nan, "<f4")
        if not np.isfinite(feature).all() or not feature.any():
            raise UsageError("is not a feature of this model", where="the face", remedy="choose the photo again")
        return feature.astype(np.float32)

    def decide(self, first: NDArray[np.float32], second: NDArray[np.float32], far: float | None = None) -> Verdict:
        """Decide whether two faces show the same person.

        Args:
            first: (D,) float32, its feature.
            second: (D,) float32.
            far: the false accept rate to decide at; None for the threshold of the verification.

        Raises:
            UsageError: If the model has no threshold for this rate, or a similarity is not a number.
        """
        with np.errstate(all="ignore"):
            score = self.embedder.similarity(first, second)
        if not np.isfinite(score):
            raise UsageError("the similarity is not a number", where="the faces", remedy="choose other photos")
        rule = self._rule
        if not rule:
            headline, *details = explain_similarity(score, self.name).split("\n")
            return Verdict(headline[0].upper() + headline[1:], "", details, Markup(""), None)
        same = bool(np.float32(score) > rule.threshold(far))
        details = [f"Similarity {score:.3f}".replace("-", "−") + f", {rule.explain(score, far).splitlines()[1]}."]
        plot = Markup(decision_plot(rule.same, rule.different, score)) if len(rule.same) else Markup("")
        headline = "Same person" if same else "Different people"
        return Verdict(headline, describe_rarity(rule, score), details, plot, same)


def describe_rarity(rule: DecisionRule, score: float) -> str:
    """Return in plain words how many of the verification pairs look at least as alike as two faces.

    Args:
        rule: of the model.
        score: similarity of the faces.

    Returns:
        A sentence, or "" for a model that was exported without scores.
    """
    if not rule.has_scores:
        return ""
    impostors, mates = rule.count_at_least(score)
    different, same = _share(impostors, len(rule.different)), _share(mates, len(rule.same))
    looks, do = ("looks" if different.one else "look"), ("does" if same.one else "do")
    return (
        f"{different.words.capitalize()} pairs of different people {looks} at least this alike; "
        f"of the same person, {same.words} {do}."
    )


class _Share(NamedTuple):
    words: str
    one: bool  # whether the verb is singular


def _share(count: int, total: int) -> _Share:
    """Return a share of pairs in words, such as "1 in 80", with no more precision than the pairs have."""
    share = count / total
    if not count:
        return _Share(f"fewer than 1 in {total:,}", True)
    if count == total:
        return _Share(f"all {total:,}", False)
    if share <= 0.15:
        return _Share(f"1 in {_round(1 / share):,}", True)
    if (tenths := round(10 * share)) < 10:
        return _Share(f"{tenths} in 10", False)
    return _Share(f"all but 1 in {_round(1 / (1 - share)):,}", False)


def _round(number: float) -> int:
    """Round to two significant digits."""
    return int(float(f"{number:.2g}"))


def encode_feature(feature: NDArray[np.float32]) -> str:
    """Return a feature as text: base64 of little-endian float32."""
    return base64.b64encode(np.asarray(feature, "<f4").tobytes()).decode()


def _encode_crop(crop: Pixels) -> str:
    return data_uri(encode_image(crop, ".jpg", 90))


def _fractions(box: NDArray[np.float32], width: int, height: int) -> list[float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    left, top = max(0.0, x1 / width), max(0.0, y1 / height)
    return [left, top, min(1.0, (x2 + 1) / width) - left, min(1.0, (y2 + 1) / height) - top]
