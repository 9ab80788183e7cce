"""What the steps of a run measured: metrics, energies, verification, and the history of the training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file
from typing_extensions import TypedDict

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.layout import FEATURES, RESULT, read_identification, read_verification
from sfplus.artifacts.model_facts import ModelFacts
from sfplus.datasets.pairs import Pairs
from sfplus.io.json_files import read_json
from sfplus.io.tables import read_json_lines
from sfplus.reports.plane_metrics import plane_metrics
from sfplus.training.history import HISTORY, HistoryRow
from sfplus.verification.result import Result

_AMOUNTS = frozenset({"steps", "seconds", "people", "crops", "pairs", "images", "train_images", "test_images"}) | {
    "pictures", "train_pictures", "test_pictures",  # in manifests of earlier versions
}  # fmt: skip
_TRAIN = ("train", "finetune", "classify", "generate")
_MAIN = ("accuracy", "rank_1", "inception_score", "surrogate_score", "training_accuracy")


class _Energies(TypedDict):
    energies: dict[str, float]


@dataclass(frozen=True)
class StepResult:
    """The results of a step of a run.

    Attributes:
        artefact: The artefact of the step.
        metrics: Its metrics by name.
        history: The history of the training.
        result: The result of the verification, if it is a verify step.
        pairs: The pairs of the result.
        model: The face network by its head, margin and energy; empty if there is none, or it is the user's.
        energies: The energy of each layer of an image classifier at the end, without its weight.
        seconds: The time that its training took, shared trainings included; of an interrupted one the last part.
        trained: The fingerprint of the artefact with the trained weights; empty if the model is the user's.
    """

    artefact: Artefact
    metrics: dict[str, float]
    history: list[dict[str, Any]] = field(default_factory=list)
    result: Result | None = None
    pairs: Pairs | None = None
    model: str = ""
    energies: dict[str, float] = field(default_factory=dict)
    seconds: float = math.nan
    trained: str = ""


def measure(name: str, artefacts: Mapping[str, Artefact]) -> StepResult:
    """Return the results of a step that has been run."""
    trained = [artefact.manifest for artefact in artefacts.values() if artefact.manifest["stage"] in _TRAIN]
    return replace(_measure(name, artefacts), seconds=sum(manifest["seconds"] for manifest in trained))


def _measure(name: str, artefacts: Mapping[str, Artefact]) -> StepResult:
    artefact = artefacts[name]
    stage = artefact.manifest["stage"]
    metrics = {} if stage == "identify" else _counted_metrics(artefact)
    if stage in ("verify", "identify"):
        key = name.partition("/")[2]
        model, identified = artefacts.get(key), artefacts.get(f"identify/{key}")
        result, pairs = read_verification(artefact.folder) if stage == "verify" else (None, None)
        metrics |= _identification_metrics(identified) if identified else {}
        if model is None:  # the model is the user's
            return StepResult(artefact, metrics, [], result, pairs)
        trained = _counted_metrics(model)
        metrics |= {"training_loss": trained.get("loss", math.nan)} | _classifier_metrics(model.folder)
        if "energy_degrees" in trained:
            metrics["training_energy_degrees"] = trained["energy_degrees"]
        facts = ModelFacts.read(model)
        return StepResult(artefact, metrics, _history(model), result, pairs, facts.name, trained=model.folder.name)
    if stage in ("train", "finetune"):
        metrics = {f"training_{key}": value for key, value in metrics.items()} | _classifier_metrics(artefact.folder)
        return StepResult(artefact, metrics, _history(artefact), model=ModelFacts.read(artefact).name)
    if stage == "classify" and (artefact.folder / FEATURES).is_file():
        tensors, scarce = load_file(artefact.folder / FEATURES), artefact.manifest["settings"]["data"].get("scarce")
        metrics |= plane_metrics(tensors["features"], tensors["labels"], tensors["classifiers"], scarce)
    return StepResult(artefact, metrics, _history(artefact), energies=_energies(artefact))


def main_metric(result: StepResult) -> str:
    """Return the name of the metric by which configurations are compared."""
    return next((name for name in _MAIN if name in result.metrics), next(iter(result.metrics), "accuracy"))


def _counted_metrics(artefact: Artefact) -> dict[str, float]:
    """Return the numbers in the counts of a stage that are metrics, not amounts."""
    return {
        name: float(value)
        for name, value in sorted(artefact.manifest["counts"].items())
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in _AMOUNTS
    }


def _identification_metrics(artefact: Artefact) -> dict[str, float]:
    """Return the rates among all distractors, then the rank-1 rates among 1,000 or more and by MegaFace's protocol."""
    rates = read_identification(artefact.folder)
    fewer = {f"rank_1_among_{row.distractors}": row.rank[0] for row in rates.rows[:-1] if row.distractors >= 1000}
    megaface = rates.rows[-1].megaface
    return rates.figures() | fewer | ({} if megaface is None else {"rank_1_megaface": megaface})


def _energies(artefact: Artefact) -> dict[str, float]:
    """Return the energy of each layer that an image classifier ends with; of other artefacts none."""
    file = artefact.folder / RESULT
    if artefact.manifest["stage"] != "classify" or not file.is_file():
        return {}
    return read_json(file, _Energies, remedy="delete its folder and run again")["energies"]


def _classifier_metrics(folder: Path) -> dict[str, float]:
    """Measure the distribution of the classifier of a face network on the sphere; empty if it has no classifier."""
    from sfplus.weights.classifier import (
        classifier_uniformity,  # imports torch, which a fresh image recipe does not need
    )

    uniformity = classifier_uniformity(folder)
    if uniformity is None:
        return {}
    return {"class_energy": uniformity.energy, "min_angle": math.degrees(uniformity.min_angle)}


def _history(artefact: Artefact) -> list[HistoryRow]:
    file = artefact.folder / HISTORY
    return read_json_lines(file, HistoryRow) if file.is_file() else []
