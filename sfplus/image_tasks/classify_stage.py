"""Stage `classify`: train an image classifier, and write its accuracy, its energies and plots of both."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sfplus.artifacts.layout import CURVES, FEATURE_PLOT, FEATURES, RESULT
from sfplus.artifacts.settings import deciding_settings
from sfplus.artifacts.stage import Job
from sfplus.image_tasks.classification import ClassificationTask
from sfplus.image_tasks.cnn import create_classifier
from sfplus.image_tasks.datasets import SmallImages, accuracy_by_class
from sfplus.image_tasks.image_set import ImageSet
from sfplus.io.files import digest_json, write_atomically, write_json
from sfplus.recipes.settings.classify import NETWORK_KEYS, ClassifySettings
from sfplus.reports.curves_plot import curves_plot
from sfplus.reports.feature_plot import feature_plot
from sfplus.training.distributed import ProcessGroup
from sfplus.training.engine import train
from sfplus.training.history import HISTORY, read_rows
from sfplus.weights import CONFIG, MODEL
from sfplus.weights.model_folder import to_bytes


def build(job: Job[ClassifySettings]) -> dict[str, Any]:
    """Train the classifier and write its weights, result and plots."""
    settings, images = job.settings, job.input("pictures", ImageSet)
    train_set, test_set = images.load()
    options = settings.model_dump(include={"network", *NETWORK_KEYS})
    _, height, _, channels = train_set.batch(np.arange(1)).shape
    options |= {"channels": channels, "size": settings.data.crop if settings.data.name == "files" else height}
    torch.manual_seed(settings.seed)
    name = options.pop("network")
    network = create_classifier(name, len(train_set.names), settings.network_options, **options)
    digest = digest_json([deciding_settings(settings), images.content])
    processes = ProcessGroup(job.context.device)
    task = ClassificationTask(network, train_set, test_set, settings, processes, digest)

    def on_step(step: int, row: dict[str, Any]) -> None:
        note = None
        if row:
            note = f"loss {row['loss']:.3f}"
            note += f", accuracy {100 * row['accuracy']:.2f} %" if "accuracy" in row else ""
        job.context.progress.update(step, settings.max_iter, "steps", note)

    job.context.log_precision(settings.precision, fp16=False)
    summary = train(task, settings, job.folder, processes, on_step)
    predictions = task.predict(test_set)
    features = task.features(test_set) if _has_plane_features(network) else None
    scarce = settings.data.scarce
    learned = 0.0
    if scarce is not None and isinstance(train_set, SmallImages):
        images_of_class = train_set.select(train_set.labels == scarce)
        learned = float((task.predict(images_of_class) == scarce).double().mean())
    if not processes.is_first:
        return {}
    write_atomically(job.folder / MODEL, to_bytes(network.state_dict()))
    config = {"classifier": settings.network, "classes": list(train_set.names)} | options
    config |= {"network_options": settings.network_options} if settings.network_options else {}
    write_json(job.folder / CONFIG, config, indent=1)
    result = _write_result(job, task, predictions, features)
    counts: dict[str, Any] = {"train_images": len(train_set.labels), "test_images": len(test_set.labels)} | summary
    counts |= {name: result[name] for name in ("accuracy", "best_accuracy")}
    if scarce is not None:
        counts["scarce_accuracy"] = list(result["accuracy_by_class"].values())[scarce]
        counts["scarce_train_accuracy"] = learned
    return counts


def _has_plane_features(network: nn.Module) -> bool:
    """Return True if the features have two dimensions, so that they can be plotted."""
    score = getattr(network, "score", None)
    return score is not None and score.weight.shape[1] == 2


def _write_result(
    job: Job[ClassifySettings], task: ClassificationTask, predictions: Tensor, features: Tensor | None
) -> dict[str, Any]:
    """Write the result of a run and its plots.

    Args:
        job: job of the stage.
        task: task after training.
        predictions: predicted classes of the test set (N,).
        features: features of the test set (N, 2), or None if they have more dimensions.

    Returns:
        The contents of `result.json`.
    """
    rows = read_rows(job.folder / HISTORY)
    tests = [row for row in rows if "accuracy" in row]
    best = max(tests, key=lambda row: float(row["accuracy"]))
    by_class = accuracy_by_class(predictions, task.test.labels, len(task.test.names))
    result = {
        "accuracy": tests[-1]["accuracy"],
        "best_accuracy": best["accuracy"],
        "best_step": best["step"],
        "accuracy_by_class": dict(zip(task.test.names, by_class, strict=True)),
        "loss": tests[-1]["loss"],
        "energies": {name[7:]: value for name, value in tests[-1].items() if name.startswith("energy.")},
    }
    write_json(job.folder / RESULT, result, indent=1)
    panels = {"training loss": {"loss": "loss"}, "on the test set": {"accuracy": "accuracy"}}
    if energies := [name for name in rows[-1] if name.startswith("energy.")]:
        panels["energy of each layer"] = {name: name.removeprefix("energy.") for name in energies}
    write_atomically(job.folder / CURVES, curves_plot(rows, panels))
    if features is not None:
        weights: Tensor = task.network.score.weight.detach()  # type: ignore[union-attr,operator]
        tensors = {"features": features, "labels": task.test.labels, "classifiers": weights}
        write_atomically(job.folder / FEATURES, to_bytes(tensors))
        write_atomically(job.folder / FEATURE_PLOT, feature_plot({"test set": tensors}, task.test.names))
    return result
