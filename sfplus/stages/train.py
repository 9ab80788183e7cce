"""Stages `train` and `finetune`: crops of people to a network; both can be interrupted at any moment and resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from sfplus.alignment.templates import TEMPLATE_OF_SIZE, TEMPLATES
from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.context import is_first
from sfplus.artifacts.inputs import InputFile, PackFolder
from sfplus.artifacts.layout import CROP_COLUMNS, CROP_TABLE, CROPS
from sfplus.artifacts.model_facts import ModelFacts
from sfplus.artifacts.pair_inputs import locate_pairs
from sfplus.artifacts.stage import Job
from sfplus.artifacts.teacher_features import TeacherFeatures
from sfplus.datasets.crops import CropDataset, PackedCrops
from sfplus.datasets.identities import assign_labels
from sfplus.datasets.records import person_from_path
from sfplus.device import Device
from sfplus.errors import DatasetError
from sfplus.hypersphere import Head, ShardedHead
from sfplus.io.console import first_names
from sfplus.io.files import file_size, write_atomically
from sfplus.io.loggers import get_logger
from sfplus.io.tables import read_failures, read_parquet
from sfplus.networks import DEFAULT_INPUT, is_function
from sfplus.networks.embed import default_batch_size, embed_batches
from sfplus.recipes.settings.finetune import FinetuneSettings
from sfplus.recipes.settings.train import SolverSettings, TrainSettings
from sfplus.training.create_network import create_network
from sfplus.training.energy_dose import energy_dose
from sfplus.training.face_task import HeldOut, fit
from sfplus.training.head_ops import create_head, gather_head, load_classifier
from sfplus.training.teacher import Distillation
from sfplus.verification.protocols import PROTOCOLS
from sfplus.weights import HEAD, PEOPLE
from sfplus.weights.feature_network import FeatureNetwork
from sfplus.weights.model_folder import load_tensors, save_model

_log = get_logger(__name__)

Settings = TypeVar("Settings", bound=SolverSettings)


def build_train(job: Job[TrainSettings]) -> dict[str, Any]:
    """Train a new network on the crops."""
    settings = job.settings
    torch.manual_seed(settings.seed)
    shape = settings.model_dump(include={"network", "feature_size", "width"})
    training_set = _load_training_set(job, settings)
    network, described = create_network(settings, training_set.size)
    return _fit(job, network, shape | described, training_set)


def build_finetune(job: Job[FinetuneSettings]) -> dict[str, Any]:
    """Train a given network further, with the energy of the classifier."""
    torch.manual_seed(job.settings.seed)
    start, model = job.input_folder("start"), job.load_model("start")
    network, config = model.network, model.config
    if isinstance(network, FeatureNetwork) or "preprocessing" in config:
        reason = "is not a network of sfplus with SphereFace's input, which training uses"
        raise DatasetError(reason, where=start, remedy="start from a model that sfplus trained or converted")
    training_set = _load_training_set(job, job.settings)
    if training_set.size != config.get("input", DEFAULT_INPUT):
        reason = f"the model to start from takes {config.get('input', DEFAULT_INPUT)} crops, not {training_set.size}"
        raise DatasetError(reason, where=start, remedy="align with its template")
    keys = ["network", "feature_size", "width"]
    if is_function(config["network"]):  # the options of the networks of sfplus are added when they are saved
        keys += [key for key in ("block", "batch_norm", "input", "network_options") if key in config]
    return _fit(job, network, {key: config[key] for key in keys}, training_set)


@dataclass(frozen=True)
class _TrainingSet:
    """People, their crops, the template that the crops follow, and the names of the crops among all crops.

    There are no people if only a teacher is learned.
    """

    people: list[str]
    crops: CropDataset | PackedCrops
    template: str
    names: Sequence[str] = ()

    @property
    def size(self) -> str:
        """The size of a crop, height x width, as networks name it."""
        return f"{self.crops.height}x{self.crops.width}"


def _fit(job: Job[Settings], network: nn.Module, shape: dict[str, Any], training_set: _TrainingSet) -> dict[str, Any]:
    people, crops = training_set.people, training_set.crops
    settings = job.settings.in_steps(len(crops))
    head = create_head(settings, shape["feature_size"], len(people)) if settings.classifies else None
    teacher = _load_teacher(job, training_set, shape["feature_size"])
    start = job.input_folder("start") if "start" in job.inputs else None
    loaded = _load_head(start, head, people)
    if loaded:
        _log.info("the network is initialised from %s; classifier: %s", start, loaded["classifier"])

    dose = energy_dose(head.weight, settings) if isinstance(head, Head) else None
    if dose is not None and dose.weight and is_first():
        _log.info("%s", dose.describe())

    def report_step(step: int, row: dict[str, Any]) -> None:
        note = _describe_row(row) if row else None
        job.context.progress.update(step, settings.max_iter, "steps", note)

    held_out = _held_out(job, training_set) if settings.evaluate_every and "pairs" in job.inputs else None
    device = job.context.device
    job.context.log_precision(settings.precision)
    summary = fit(network, head, crops, settings, job.folder, device, report_step, held_out, teacher)
    full_head = None if head is None else gather_head(head, settings)  # each process may hold a shard of it
    if not is_first():
        return {}
    about: dict[str, Any] = {
        "template": training_set.template,
        "head": settings.head.model_dump() if head is not None else None,
        "energy": settings.energy.model_dump() if settings.energy and head is not None else None,
        "crops": len(crops),
    }
    facts = ModelFacts.read(job.inputs["start"]) if "start" in job.inputs else ModelFacts()
    if start is not None:
        about["start"] = facts.name
    if teachers := [*facts.teachers, *([] if teacher is None else [_describe_teacher(teacher)])]:
        about["teachers"] = teachers
    if people:
        about["people"] = len(people)
    save_model(job.folder, network, shape | about, head=full_head)
    if people:
        write_atomically(job.folder / PEOPLE, _people_lines(people))
    movement = {} if dose is None else {"energy_degrees": round(dose.degrees, 4)}
    return {"people": len(people), "crops": len(crops)} | loaded | movement | summary


def _describe_row(row: dict[str, Any]) -> str:
    accuracy, cosine = row["accuracy"], row.get("teacher_cosine")
    figures = [] if accuracy is None else [f"accuracy {100 * accuracy:.1f} %"]
    figures += [] if cosine is None else [f"cosine to the teacher {cosine:.3f}"]
    return ", ".join([f"loss {row['loss']:.3f}", *figures])


def _load_training_set(job: Job[Any], settings: TrainSettings | FinetuneSettings) -> _TrainingSet:
    source, exclude = job.inputs["crops"], settings.exclude
    if isinstance(source, PackFolder):
        packed = PackedCrops(source.root, exclude, least=2 if settings.classifies else 1)
        size = f"{packed.height}x{packed.width}"
        template = TEMPLATE_OF_SIZE.get(size)
        if template is None:
            reason = f"its crops are {size}, these networks take {' or '.join(TEMPLATE_OF_SIZE)}"
            raise DatasetError(reason, where=source.root, remedy="align the photos again, and pack their crops")
        names = [str(row) for row in packed.rows]
        return _TrainingSet(packed.people if settings.classifies else [], packed, template.name, names)
    assert isinstance(source, Artefact)
    names = read_parquet(source.folder / CROP_TABLE, CROP_COLUMNS)["crop"]
    template = TEMPLATES[source.manifest["settings"]["template"]]
    everybody = {person_from_path(name, DatasetError, settings.people) for name in names if "/" in name}
    unknown = {name for name in exclude if name not in everybody}
    if unknown and is_first():
        _log.warning("not left out, because no crop is in a folder of this name: %s", first_names(sorted(unknown)))
    if settings.classifies:
        people, labels, names = assign_labels(names, exclude, settings.people)
        failed = (row["photo"] for rows in read_failures(source.folder) for row in rows)
        missing = {person_from_path(name, DatasetError, settings.people) for name in failed} - {*people, *exclude}
        if missing and is_first():
            _log.warning("not trained on, because no photo gave a crop: %s", first_names(sorted(missing)))
    else:
        names = sorted(name for name in names if not _is_excluded(name, settings))
        people, labels = [], [0] * len(names)
    paths = [source.folder / CROPS / name for name in names]
    crops = CropDataset(paths, labels, template.height, template.width, people)
    return _TrainingSet(people, crops, template.name, names)


def _is_excluded(name: str, settings: TrainSettings | FinetuneSettings) -> bool:
    """Return whether a crop is one of a person to leave out; a crop in no folder is nobody's."""
    return "/" in name and person_from_path(name, DatasetError, settings.people) in settings.exclude


def _load_teacher(job: Job[Settings], training_set: _TrainingSet, size: int) -> Distillation | None:
    """Return the features of the teacher for the training set; None without a teacher."""
    if job.settings.teacher is None:
        return None
    features = TeacherFeatures(job.input("teacher", Artefact), job.inputs["crops"], training_set.names)
    return Distillation(job.settings.teacher, features, size)


def _describe_teacher(teacher: Distillation) -> dict[str, str]:
    about = teacher.features.about
    return about | {"licence": teacher.settings.licence or about["licence"] or "unknown"}


def _load_head(start: Path | None, head: Head | ShardedHead | None, people: Sequence[str]) -> dict[str, Any]:
    """Initialise the head as Caffe does: from the classifier of the start, if it has the same name and shape.

    A start that names its people must have been trained on the same ones.
    """
    if start is None or head is None:
        return {}
    if not (start / HEAD).is_file():
        return {"classifier": "new: the start has none"}
    tensors = load_tensors(start / HEAD)
    if _has_people(start, people) and load_classifier(tensors, head):
        return {"classifier": "loaded"}
    count = len(tensors["weight"]) if "weight" in tensors else 0
    return {"classifier": f"new: the start was trained on other people ({count})"}


def _people_lines(people: Sequence[str]) -> bytes:
    return "".join(f"{person}\n" for person in people).encode()


def _has_people(start: Path, people: Sequence[str]) -> bool:
    """Return whether a model was trained on these people, in this order; True if it does not name its people."""
    file, lines = start / PEOPLE, _people_lines(people)
    return not file.is_file() or (file_size(file) == len(lines) and file.read_bytes() == lines)


def _held_out(job: Job[Settings], training_set: _TrainingSet) -> HeldOut:
    """Return a function that measures the accuracy of the sphereface protocol on the held-out pairs that have crops."""
    crops, pair_file = job.input("held_out", Artefact), job.input("pairs", InputFile)
    if crops.manifest["settings"]["template"] != training_set.template:
        reason = f"the held-out crops follow {crops.manifest['settings']['template']}, not {training_set.template}"
        raise DatasetError(reason, where=pair_file.path, remedy="align both to the same template")
    table = read_parquet(crops.folder / CROP_TABLE, CROP_COLUMNS)
    pairs, sides = locate_pairs(pair_file, table["photo"])
    complete = (sides >= 0).all(0)
    rows, (left, right) = np.unique(sides[:, complete], return_inverse=True)
    paths = [crops.folder / CROPS / table["crop"][row] for row in rows]
    dataset = CropDataset(paths, [0] * len(paths), training_set.crops.height, training_set.crops.width)
    parts = np.array_split(np.arange(len(paths)), -(-len(paths) // default_batch_size(job.context.device)))

    def accuracy(network: nn.Module) -> dict[str, float]:
        device = Device(next(network.parameters()).device)  # with several processes, not always the requested device
        batches = (dataset.batch(part)[0] for part in parts)
        features = np.concatenate(list(embed_batches(network, batches, device)))
        same, fold = pairs.same[complete], pairs.fold[complete]
        return {"accuracy": PROTOCOLS["sphereface"](features[left], features[right], same, fold, mirrored=True).mean}

    return accuracy
