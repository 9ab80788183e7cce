"""Figures of a report that a result does not hold: error rates, intervals, comparisons, the hardest people."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sfplus.artifacts.model_facts import ModelFacts, control_of, start_of
from sfplus.datasets.pairs import Pairs
from sfplus.errors import PairsError
from sfplus.verification.bootstrap import Interval
from sfplus.verification.curves import FARS, accuracy_interval, auc, eer, rate_intervals, tar_at_far
from sfplus.verification.protocols import PROTOCOLS
from sfplus.verification.result import Result
from sfplus.verification.significance import Comparison, compare, holm

if TYPE_CHECKING:
    from sfplus.hypersphere import Uniformity

_NO_CONTROL = (
    "No control of {name} was verified, so the effect of {regulariser} is not known: finetune.control=true adds it."
)
_PEOPLE = 12  # hardest people listed
_MAX_DRAWS = 20_000_000  # pairs drawn for one interval


def compute_metrics(
    results: Mapping[str, Result], pairs: Mapping[str, Pairs], models: Mapping[str, ModelFacts] | None = None
) -> dict[str, Any]:
    """Compute all figures of a report.

    Args:
        results: result by name of the model.
        pairs: pairs by name of the model, for those models whose pairs are available.
        models: facts by name of the model, for those models whose facts are known.

    Returns:
        `rates`, `intervals` and `people` by name of the model, `comparisons` and their `effects` as lists, `verdicts`
        in words, and `folds`, the largest number of folds.
    """
    models = models or {}
    comparisons = compare_models(results, pairs, models)
    interval_sets = {name: confidence_intervals(results[name], listed) for name, listed in pairs.items()}
    return {
        "rates": {name: error_rates(result) for name, result in results.items()},
        "intervals": {name: intervals for name, intervals in interval_sets.items() if intervals},
        "people": {name: hardest_people(results[name], listed) for name, listed in pairs.items()},
        "comparisons": comparisons,
        "effects": [effect_of(row, models) for row in comparisons],
        "verdicts": verdicts(comparisons, models, last=list(results)[-1] if results else ""),
        "folds": max((len(result.accuracy) for result in results.values()), default=0),
    }


def error_rates(result: Result) -> dict[str, Any]:
    """Return the area under the ROC, the equal error rate and the TAR at those FARS that the pairs can resolve."""
    tars = {f"{far:g}": tar_at_far(result.scores, result.same, far) for far in FARS}
    return {"auc": auc(result.scores, result.same), "eer": eer(result.scores, result.same), "tar_at_far": tars}


def worst_pairs(result: Result, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of the `n` worst false accepts and false rejects, furthest beyond the threshold first."""
    margin = result.scores - result.threshold[result.fold]
    order = np.argsort(-np.abs(margin), kind="stable")
    wrong = order[~result.correct[order]]
    return wrong[~result.same[wrong]][:n], wrong[result.same[wrong]][:n]


def confidence_intervals(result: Result, pairs: Pairs) -> dict[str, Interval | None]:
    """Compute 95 % intervals over people of `accuracy`, `auc`, `eer` and the TAR at each of FARS.

    Returns:
        Intervals by name, as `rate_intervals`; empty if there are too few people.
    """
    intervals: dict[str, Interval | None] = {}
    with contextlib.suppress(PairsError):
        intervals["accuracy"] = accuracy_interval(result, pairs, replicates=_replicates(pairs))
        intervals |= rate_intervals(result, pairs, replicates=_replicates(pairs))
    return intervals


def _replicates(pairs: Pairs) -> int:
    """Return the number of bootstrap replicates: fewer for so many pairs that 1,000 would take minutes."""
    return max(100, min(1000, _MAX_DRAWS // len(pairs)))


def compare_models(
    results: Mapping[str, Result], pairs: Mapping[str, Pairs], models: Mapping[str, ModelFacts] | None = None
) -> list[Comparison]:
    """Compare each result with every other one that has the same pairs and protocol.

    A model is compared with its control, with the model that it was fine-tuned from, else with those before it. Each
    p-value is adjusted for the number of comparisons (Holm 1979). Pairs of too few people are not compared.

    Returns:
        The comparisons, those with a control first.
    """
    models, comparisons = models or {}, []
    for names in combinations([name for name in results if name in pairs], 2):
        if names[1] in (control_of(names[0], models), start_of(names[0], models)):
            names = names[::-1]
        (a, b), (left, right) = (results[name] for name in names), (pairs[name] for name in names)
        if a.protocol == b.protocol and _are_equal(left, right):
            with contextlib.suppress(PairsError):
                comparisons.append(compare(a, b, right, names, replicates=_replicates(right)))
    adjusted = holm([row.p for row in comparisons])
    comparisons = [replace(row, p=p) for row, p in zip(comparisons, adjusted, strict=True)]
    return sorted(comparisons, key=lambda row: not _is_with_control(row, models))


def effect_of(row: Comparison, models: Mapping[str, ModelFacts]) -> str:
    """Return the cause of the difference between two models; empty where they differ in more than their training."""
    if _is_with_control(row, models):
        return models[row.second].regulariser
    if start_of(row.second, models) != row.first:
        return ""
    facts = models[row.second]
    return (
        f"fine-tuning and {facts.regulariser} together" if facts.energy else f"fine-tuning without {facts.regulariser}"
    )


def _is_with_control(row: Comparison, models: Mapping[str, ModelFacts]) -> bool:
    """Return whether a model is compared with its control, which shows the effect of its regulariser."""
    return control_of(row.second, models) == row.first


def verdicts(comparisons: Sequence[Comparison], models: Mapping[str, ModelFacts], last: str) -> list[str]:
    """Return the conclusions in words: on the effect of MHE or another regulariser, and on the last model."""
    lines = []
    for row in comparisons:
        effect = effect_of(row, models)
        if _is_with_control(row, models) or last in (row.first, row.second):
            lines.append(f"Effect of {effect}: {row.verdict}" if effect else row.verdict)
    tuned = [row.second for row in comparisons if start_of(row.second, models) == row.first]
    return lines + [
        _NO_CONTROL.format(name=name, regulariser=models[name].regulariser)
        for name in dict.fromkeys(tuned) if models[name].energy and not control_of(name, models)
    ]  # fmt: skip


def _are_equal(first: Pairs, second: Pairs) -> bool:
    """Return whether two lists hold the same pairs in the same order; their folds may differ."""
    return first.left == second.left and first.right == second.right and np.array_equal(first.same, second.same)


def protocol_descriptions(protocols: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the first docstring line of each protocol that was used for some model, in the order of PROTOCOLS.

    Args:
        protocols: summaries by name of the model, then by protocol.
    """
    used = [name for name in PROTOCOLS if any(name in summaries for summaries in protocols.values())]
    return {name: str(PROTOCOLS[name].__doc__).split("\n")[0].rstrip(".") for name in used}


def hardest_people(result: Result, pairs: Pairs) -> list[dict[str, Any]]:
    """Return the up to 12 people with the most wrong pairs, worst first.

    Returns:
        Rows with `person`, `pairs`, `false_accepts` and `false_rejects`. A pair of different people counts for both.
    """
    names, left, right = pairs.people
    differ = left != right  # a pair of the same person counts once

    def count(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(np.concatenate([left[chosen], right[chosen & differ]]), minlength=len(names))

    wrong = ~result.correct
    total, accepts, rejects = count(np.ones_like(wrong)), count(wrong & ~result.same), count(wrong & result.same)
    errors = accepts + rejects
    order = np.lexsort((np.arange(len(names)), total, -errors))[:_PEOPLE]
    return [
        {"person": names[i], "pairs": int(total[i]), "false_accepts": int(accepts[i]), "false_rejects": int(rejects[i])}
        for i in order if errors[i]
    ]  # fmt: skip


def classifier_table(classifiers: Mapping[str, Uniformity]) -> dict[str, list[str]]:
    """Return the rows of the table of classifiers as text: by label, a value for each model."""
    columns: dict[str, Callable[[Uniformity], str]] = {
        "Classes": lambda u: f"{u.count:,}",
        "Dimensions": lambda u: f"{u.dimension:,}",
        "Power s of the energy": lambda u: f"{u.power:g}",
        "Energy": lambda u: f"{u.energy:.5f}",
        "Energy of random directions": lambda u: f"{u.random:.5f}",
        "Lower bound of the energy": lambda u: f"{u.least:.5f}",
        "Excess energy": lambda u: f"{u.excess:.2f}",
        "Mean angle": lambda u: f"{math.degrees(u.mean_angle):.1f}°",
        "Angle to the nearest class, mean": lambda u: f"{math.degrees(u.mean_nearest):.1f}°",
        "Angle to the nearest class, minimum": lambda u: f"{math.degrees(u.min_angle):.1f}°",
        "Redundancy": lambda u: f"{u.redundancy:.2f}",
    }
    return {label: [write(classifier) for classifier in classifiers.values()] for label, write in columns.items()}


def classifier_summary(classifier: Uniformity) -> dict[str, Any]:
    """Return the statistics of a classifier as JSON data, without the angle of each class."""
    kept = ("count", "dimension", "power", "energy", "random", "least", "excess", "mean_angle", "mean_nearest",
            "min_angle", "redundancy")  # fmt: skip
    return {name: to_json_value(getattr(classifier, name)) for name in kept}


def to_json_value(value: Any) -> Any:
    """Convert a value to JSON data: images are left out, and a float that is not finite becomes None."""
    if isinstance(value, Result):
        return value.to_dict()
    if isinstance(value, Interval):
        return value._asdict()
    if is_dataclass(value):
        return {f.name: to_json_value(getattr(value, f.name)) for f in fields(value) if not f.name.endswith("_jpeg")}
    if isinstance(value, Mapping):
        return {str(key): to_json_value(item) for key, item in value.items()}
    if isinstance(value, np.generic | np.ndarray):
        return to_json_value(value.tolist())
    if isinstance(value, list | tuple):
        return [to_json_value(item) for item in value if not isinstance(item, bytes)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
