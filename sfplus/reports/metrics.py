"""The numbers of a report that are not in a result: error rates, intervals, comparisons, hardest people."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sfplus.datasets.pairs import Pairs
from sfplus.errors import PairsError
from sfplus.verification.bootstrap import Interval
from sfplus.verification.curves import FARS, accuracy_interval, auc, eer, rate_intervals, tar_at_far
from sfplus.verification.protocols import PROTOCOLS
from sfplus.verification.result import Result
from sfplus.verification.significance import Comparison, compare

if TYPE_CHECKING:
    from sfplus.hypersphere import Uniformity

_PEOPLE = 12  # hardest people listed
_DRAWN = 20_000_000  # pairs drawn at most for an interval


def numbers(results: Mapping[str, Result], pairs: Mapping[str, Pairs]) -> dict[str, Any]:
    """Everything below, by name of the model; comparisons as rows."""
    return {
        "rates": {name: rates(result) for name, result in results.items()},
        "intervals": {name: found for name, known in pairs.items() if (found := intervals(results[name], known))},
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


def intervals(result: Result, pairs: Pairs) -> dict[str, Interval | None]:
    """95 % intervals over people of `accuracy`, `auc`, `eer` and the TAR at each of FARS; none of too few people."""
    found: dict[str, Interval | None] = {}
    with contextlib.suppress(PairsError):
        found["accuracy"] = accuracy_interval(result, pairs, replicates=_draws(pairs))
        found |= rate_intervals(result, pairs, replicates=_draws(pairs))
    return found


def _draws(pairs: Pairs) -> int:
    """How often people are drawn: less often where there are so many pairs that it would take minutes."""
    return max(100, min(1000, _DRAWN // len(pairs)))


def comparisons(results: Mapping[str, Result], pairs: Mapping[str, Pairs]) -> list[Comparison]:
    """How of any two results of the same pairs and protocol the later stands against the earlier.

    Each p is adjusted for the number of comparisons (Holm 1979). Pairs of too few people are not compared.
    """
    found = []
    for names in combinations(pairs, 2):
        (a, b), (left, right) = (results[name] for name in names), (pairs[name] for name in names)
        if a.protocol == b.protocol and _alike(left, right):
            with contextlib.suppress(PairsError):
                found.append(compare(a, b, right, names, replicates=_draws(right)))
    least, adjusted = 0.0, {}
    for rank, row in enumerate(sorted(found, key=lambda row: row.p)):
        least = adjusted[row.first, row.second] = max(least, min(1.0, row.p * (len(found) - rank)))
    return [replace(row, p=adjusted[row.first, row.second]) for row in found]


def _alike(first: Pairs, second: Pairs) -> bool:
    """Whether two lists hold the same pairs in the same order; their folds may differ."""
    return first.left == second.left and first.right == second.right and np.array_equal(first.same, second.same)


def by_protocol(
    left: NDArray[np.floating],
    right: NDArray[np.floating],
    same: NDArray[np.bool_],
    fold: NDArray[np.int64],
    mirrored: bool,
) -> dict[str, dict[str, Any]]:
    """What each protocol that fits the features makes of pairs, without the scores (see `VerificationProtocol`)."""
    found = {}
    for name, protocol in PROTOCOLS.items():
        with contextlib.suppress(PairsError):
            result = protocol(left, right, same, fold, mirrored=mirrored).to_dict()
            found[name] = {key: value for key, value in result.items() if key not in ("scores", "same", "fold")}
    return found


def descriptions(protocols: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What each protocol does that some model was judged by, in the order of PROTOCOLS."""
    known = [name for name in PROTOCOLS if any(name in found for found in protocols.values())]
    return {name: str(PROTOCOLS[name].__doc__).split("\n")[0].rstrip(".") for name in known}


def hardest_people(result: Result, pairs: Pairs) -> list[dict[str, Any]]:
    """The people of most wrong pairs: `person`, `pairs`, `false_accepts` and `false_rejects`, worst first."""
    names, left, right = pairs.people
    other = left != right  # a pair of one person counts once

    def count(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(np.concatenate([left[chosen], right[chosen & other]]), minlength=len(names))

    wrong = ~result.correct
    every, accepts, rejects = count(np.ones_like(wrong)), count(wrong & ~result.same), count(wrong & result.same)
    errors = accepts + rejects
    order = np.lexsort((np.arange(len(names)), every, -errors))[:_PEOPLE]
    return [
        {"person": names[i], "pairs": int(every[i]), "false_accepts": int(accepts[i]), "false_rejects": int(rejects[i])}
        for i in order if errors[i]
    ]  # fmt: skip


def spread_rows(spreads: Mapping[str, Uniformity]) -> dict[str, list[str]]:
    """The lines of the table of classifiers: a value for each model."""
    kinds: dict[str, Callable[[Uniformity], str]] = {
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


def spread_summary(spread: Uniformity) -> dict[str, Any]:
    """A spread as JSON data, without the angle of each class."""
    kept = ("count", "dimension", "power", "energy", "random", "least", "excess", "mean_angle", "mean_nearest",
            "min_angle", "redundancy")  # fmt: skip
    return {name: plain(getattr(spread, name)) for name in kept}


def plain(value: Any) -> Any:
    """A value as JSON data: pictures are left out, and what is not a finite number becomes null."""
    if isinstance(value, Result):
        return value.to_dict()
    if isinstance(value, Interval):
        return value._asdict()
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
