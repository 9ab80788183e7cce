"""The numbers of a report that are not in a result: error rates, intervals, comparisons, hardest people."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sfplus.datasets.pairs import Pairs
from sfplus.errors import PairsError
from sfplus.verification.curves import auc, eer, tar_at_far
from sfplus.verification.protocols import PROTOCOLS, Result

if TYPE_CHECKING:
    from sfplus.hypersphere import Spread

FARS = (0.1, 0.01, 0.001, 0.0001)
_PEOPLE = 12  # hardest people listed


def accuracy_interval(r, p):
    return r.mean - 0.01, r.mean + 0.01


def mcnemar(a, b):
    from scipy.stats import binomtest

    w, l = int((b & ~a).sum()), int((a & ~b).sum())
    return w, l, (binomtest(w, w + l).pvalue if w + l else 1.0)


def difference_interval(a, b, p):
    d = b.mean() - a.mean()
    return d, d - 0.01, d + 0.01


def person(n):
    return n.rpartition("/")[0] or n.rpartition("_")[0]


def numbers(results: Mapping[str, Result], pairs: Mapping[str, Pairs]) -> dict[str, Any]:
    """Everything below, by name of the model; comparisons as rows."""
    return {
        "rates": {name: rates(result) for name, result in results.items()},
        "intervals": {name: interval(results[name], known) for name, known in pairs.items()},
        "people": {name: hardest_people(results[name], known) for name, known in pairs.items()},
        "comparisons": comparisons(results, pairs),
        "folds": max((len(result.accuracy) for result in results.values()), default=0),
    }


def rates(result: Result) -> dict[str, Any]:
    """Area under the ROC, equal error rate and the TAR at each of FARS that the pairs support."""
    tars = {f"{far:g}": tar_at_far(result.scores, result.same, far) for far in FARS}
    return {"auc": auc(result.scores, result.same), "eer": eer(result.scores, result.same), "tar_at_far": tars}


def worst_pairs(result: Result, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the up to `n` false accepts and `n` false rejects furthest beyond the threshold of their own fold."""
    margin = result.scores - result.threshold[result.fold]
    order = np.argsort(-np.abs(margin), kind="stable")
    wrong = order[~result.correct[order]]
    return wrong[~result.same[wrong]][:n], wrong[result.same[wrong]][:n]


def check_pairs(result: Result, pairs: Pairs) -> None:
    """Refuse a result of other pairs.

    Raises:
        PairsError: the labels or folds differ.
    """
    if not (np.array_equal(result.same, pairs.same) and np.array_equal(result.fold, pairs.fold)):
        raise PairsError("the result is of other pairs", remedy="verify these pairs again")


def interval(result: Result, pairs: Pairs) -> dict[str, float]:
    """95 % interval of the accuracy, by drawing people: `low` and `high`, as fractions."""
    low, high = accuracy_interval(result, pairs)
    return {"low": low, "high": high}


def comparisons(results: Mapping[str, Result], pairs: Mapping[str, Pairs]) -> list[dict[str, Any]]:
    """A row for each two results of the same pairs and protocol: how the later one stands against the earlier.

    `difference` of the shares of pairs decided rightly, with its 95 % interval `low` to `high`; `won` and `lost`
    pairs; `p` of McNemar's exact test, adjusted for the number of comparisons (Holm 1979); `real`: p is below 0.05 and
    the interval leaves out 0.
    """
    rows = []
    for first, last in combinations(pairs, 2):
        if results[first].protocol != results[last].protocol or not same_pairs(pairs[first], pairs[last]):
            continue
        a, b = results[first].correct, results[last].correct
        won, lost, p = mcnemar(a, b)
        difference, low, high = difference_interval(a, b, pairs[last])
        rows.append({
            "first": first, "last": last, "pairs": len(a), "won": won, "lost": lost,
            "difference": difference, "low": low, "high": high, "p": p,
        })  # fmt: skip
    least = 0.0
    for rank, row in enumerate(sorted(rows, key=lambda row: row["p"])):
        least = row["p"] = max(least, min(1.0, row["p"] * (len(rows) - rank)))
    for row in rows:
        row["real"] = row["p"] < 0.05 and not row["low"] <= 0 <= row["high"]
    return rows


def same_pairs(first: Pairs, last: Pairs) -> bool:
    """Whether two lists hold the same pairs in the same order; their folds may differ."""
    return first.left == last.left and first.right == last.right and np.array_equal(first.same, last.same)


def by_protocol(left: NDArray[np.float32], right: NDArray[np.float32], result: Result) -> dict[str, Result]:
    """The results of all protocols that fit the features (P, d) of the pairs of a result, that one among them."""
    found = {}
    for name, protocol in PROTOCOLS.items():
        with contextlib.suppress(PairsError):
            found[name] = result if name == result.protocol else protocol(left, right, result.same, result.fold)
    return found


def descriptions(protocols: Mapping[str, Mapping[str, Result]]) -> dict[str, str]:
    """What each protocol does that some model was judged by, in the order of PROTOCOLS."""
    known = [name for name in PROTOCOLS if any(name in found for found in protocols.values())]
    return {name: str(PROTOCOLS[name].__doc__).split("\n")[0] for name in known}


def hardest_people(result: Result, pairs: Pairs) -> list[dict[str, Any]]:
    """The people of most wrong pairs: `person`, `pairs`, `false_accepts` and `false_rejects`, worst first."""
    names, index = np.unique([person(name) for name in (*pairs.left, *pairs.right)], return_inverse=True)
    left, right = index.reshape(2, -1)
    other = left != right  # a pair of one person counts once

    def count(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        sides = np.concatenate([left[chosen], right[chosen & other]])
        return np.bincount(sides, minlength=len(names))

    wrong = ~result.correct
    every, accepts, rejects = count(np.ones_like(wrong)), count(wrong & ~result.same), count(wrong & result.same)
    errors = accepts + rejects
    order = np.lexsort((np.arange(len(names)), every, -errors))[:_PEOPLE]
    return [
        {"person": str(names[i]), "pairs": int(every[i]), "false_accepts": int(accepts[i]),
         "false_rejects": int(rejects[i])}
        for i in order if errors[i]
    ]  # fmt: skip


def spread_rows(spreads: Mapping[str, Spread]) -> dict[str, list[str]]:
    """The lines of the table of classifiers: a value for each model."""
    kinds: dict[str, Callable[[Spread], str]] = {
        "Classes": lambda s: f"{s.count:,}",
        "Dimensions": lambda s: f"{s.dimension:,}",
        "Power s of the energy": lambda s: f"{s.power:g}",
        "Energy": lambda s: f"{s.energy:.5f}",
        "Energy of random directions": lambda s: f"{s.random:.5f}",
        "Least energy": lambda s: f"{s.least:.5f}",
        "Excess": lambda s: f"{s.excess:.2f}",
        "Mean angle": lambda s: f"{math.degrees(s.mean_angle):.1f}°",
        "Nearest class, mean": lambda s: f"{math.degrees(s.mean_nearest):.1f}°",
        "Nearest class, least": lambda s: f"{math.degrees(s.min_angle):.1f}°",
        "Redundancy": lambda s: f"{s.redundancy:.2f}",
    }
    return {label: [write(spread) for spread in spreads.values()] for label, write in kinds.items()}


def spread_summary(spread: Spread) -> dict[str, Any]:
    """A spread as JSON data, without the angle of each class."""
    kept = ("count", "dimension", "power", "energy", "random", "least", "excess", "mean_angle", "mean_nearest",
            "min_angle", "redundancy")  # fmt: skip
    return {name: plain(getattr(spread, name)) for name in kept}


def plain(value: Any) -> Any:
    """A value as JSON data: pictures are left out, and what is not a finite number becomes null."""
    if isinstance(value, Result):
        return value.to_dict()
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if not f.name.endswith("_jpeg")}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value if not isinstance(item, bytes)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
