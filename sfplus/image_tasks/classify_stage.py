"""Stage `classify`: labelled pictures to a trained classifier, its accuracy, its energies and pictures of both."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from sfplus.artifacts.cache import Job, Stage
from sfplus.image_tasks.image_set import PictureSet
from sfplus.io.files import write_atomically
from sfplus.recipes.settings.classify import ClassifierSettings
from sfplus.recipes.settings.engine import INDIFFERENT
from sfplus.weights import CONFIG, MODEL

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sfplus.image_tasks.classification import ClassifyTask

RESULT, FEATURES = "result.json", "features.safetensors"
CURVES, PLANE = "curves.png", "plane.png"


class ClassifySettings(ClassifierSettings):
    """A classifier of pictures; the key `classify` of a recipe."""


def _build(job: Job) -> dict[str, Any]:
    import torch

    from sfplus.image_tasks.classification import ClassifyTask
    from sfplus.image_tasks.cnn import create_classifier
    from sfplus.io.files import digest_json
    from sfplus.training.distributed import Processes
    from sfplus.training.engine import train
    from sfplus.weights.model_folder import to_bytes

    settings: ClassifySettings = job.settings
    pictures: PictureSet = job.inputs["pictures"]
    learned, tested = pictures.load()
    shape = settings.model_dump(include={"network", "width", "operator", "weight_norm", "bn_momentum"})
    first = learned.batch(np.arange(1)).shape
    size = settings.data.crop if settings.data.name == "files" else first[1]
    torch.manual_seed(settings.seed)
    shape |= {"channels": first[3], "size": size}
    network = create_classifier(shape.pop("network"), len(learned.names), **shape)
    digest = digest_json([settings.model_dump(mode="json", exclude=set(INDIFFERENT)), pictures.content])
    processes = Processes(job.run.device)
    task = ClassifyTask(network, learned, tested, settings, processes, digest)

    def show(done: int, row: dict[str, Any]) -> None:
        note = None
        if row:
            note = f"loss {row['loss']:.3f}"
            note += f", accuracy {100 * row['accuracy']:.2f} %" if "accuracy" in row else ""
        job.run.bar.update(done, settings.max_iter, "steps", note)

    summary = train(task, settings, job.folder, processes, on_step=show)
    answers = task.predict(tested)
    plane = task.features(tested) if _in_the_plane(network) else None
    if not processes.is_first:
        return {}
    write_atomically(job.folder / MODEL, to_bytes(network.state_dict()))
    about = {"classifier": settings.network, "classes": list(learned.names)} | shape
    write_atomically(job.folder / CONFIG, json.dumps(about, indent=1).encode())
    result = _result(job, task, answers, plane)
    counts = {"train_pictures": len(learned.labels), "test_pictures": len(tested.labels)} | summary
    counts |= {name: result[name] for name in ("accuracy", "best_accuracy")}
    if settings.data.scarce is not None:
        counts["scarce_accuracy"] = list(result["accuracy_by_class"].values())[settings.data.scarce]
    return counts


def _in_the_plane(network: nn.Module) -> bool:
    score = getattr(network, "score", None)
    return score is not None and score.weight.shape[1] == 2


def _result(job: Job, task: ClassifyTask, answers: Tensor, plane: Tensor | None) -> dict[str, Any]:
    """Write what the run comes to, and its pictures.

    Args:
        job: of the stage.
        task: trained.
        answers: the class of each picture of the test set (N,).
        plane: its features (N, 2), where they lie in the plane.
    """
    from sfplus.image_tasks.datasets import accuracy_by_class
    from sfplus.reports.curves_plot import curves_plot
    from sfplus.reports.feature_plot import feature_plot
    from sfplus.training.history import HISTORY, read_rows
    from sfplus.weights.model_folder import to_bytes

    rows = read_rows(job.folder / HISTORY)
    tests = [row for row in rows if "accuracy" in row]
    best = max(tests, key=lambda row: float(row["accuracy"]))
    by_class = accuracy_by_class(answers, task.test.labels, len(task.test.names))
    result = {
        "accuracy": tests[-1]["accuracy"],
        "best_accuracy": best["accuracy"],
        "best_step": best["step"],
        "accuracy_by_class": dict(zip(task.test.names, by_class, strict=True)),
        "loss": tests[-1]["loss"],
        "energies": {name[7:]: value for name, value in tests[-1].items() if name.startswith("energy.")},
    }
    write_atomically(job.folder / RESULT, json.dumps(result, indent=1).encode())
    panels = {"training loss": {"loss": "loss"}, "on the test set": {"accuracy": "accuracy"}}
    if energies := [name for name in rows[-1] if name.startswith("energy.")]:
        panels["energy of each layer"] = {name: name.removeprefix("energy.") for name in energies}
    write_atomically(job.folder / CURVES, curves_plot(rows, panels))
    if plane is not None:
        classifiers: Tensor = task.network.score.weight.detach()  # type: ignore[union-attr,operator]
        found = {"features": plane, "labels": task.test.labels, "classifiers": classifiers}
        write_atomically(job.folder / FEATURES, to_bytes(found))
        write_atomically(job.folder / PLANE, feature_plot({"test set": found}, task.test.names))
    return result


STAGE = Stage("classify", 1, _build)
