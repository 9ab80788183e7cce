"""Stages `train` and `finetune`: crops of people to a network; both can be stopped at any moment and go on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sfplus.datasets.folders import identities
from sfplus.stages.align import CROPS, TABLE
from sfplus.stages.cache import Job, Stage
from sfplus.stages.tables import read_table
from sfplus.training.settings import EnergySettings, SolverSettings, TrainingSettings
from sfplus.weights import HEAD

if TYPE_CHECKING:
    from torch import nn

HISTORY = "history.jsonl"


class TrainSettings(TrainingSettings):
    """A-Softmax training from scratch."""

    exclude: tuple[str, ...] = Field((), description="people to leave out, because the test set has them (get_list.m)")


class FinetuneSettings(SolverSettings):
    """SphereFace+: the same loss and the energy of the classifier, from a trained model of any size."""

    energy: EnergySettings = Field(
        EnergySettings(), description="minimum hyperspherical energy of the classifier (MHE paper, section 5.2)"
    )
    exclude: tuple[str, ...] = Field((), description="people to leave out; empty: those that train leaves out")


def _build_train(job: Job) -> dict[str, Any]:
    import torch

    from sfplus.networks import create

    settings: TrainSettings = job.settings
    torch.manual_seed(settings.seed)
    shape = settings.model_dump(include={"network", "feature_size", "width"})
    network = create(shape["network"], feature_size=shape["feature_size"], width=shape["width"])
    return _fit(job, network, shape)


def _build_finetune(job: Job) -> dict[str, Any]:
    import torch

    from sfplus.weights.sources import load_model

    torch.manual_seed(job.settings.seed)
    network, config = load_model(job.inputs["start"].folder)
    return _fit(job, network, {key: config[key] for key in ("network", "feature_size", "width")})


def _fit(job: Job, network: nn.Module, shape: dict[str, Any]) -> dict[str, Any]:
    from sfplus.alignment import TEMPLATES
    from sfplus.datasets.crops import CropDataset
    from sfplus.hypersphere import HEADS
    from sfplus.training.loop import fit
    from sfplus.weights.checkpoint import save_model

    settings: SolverSettings = job.settings
    crops = job.inputs["crops"]
    people, labels, names = identities(read_table(crops.folder / TABLE)["crop"], job.settings.exclude)
    template = TEMPLATES[crops.manifest["settings"]["template"]]
    dataset = CropDataset([crops.folder / CROPS / name for name in names], labels, template.height, template.width)
    options = settings.head.model_dump(exclude={"name"})
    head = HEADS[settings.head.name](shape["feature_size"], len(people), **options)
    loaded = _load_head(job.inputs["start"].folder if "start" in job.inputs else None, head)
    step = job.run.bar

    def show(done: int, row: dict[str, Any]) -> None:
        if step.total is None:
            step.start(settings.max_iter, "steps", done - 1)
        note = f"loss {row['loss']:.3f}, accuracy {100 * row['accuracy']:.1f} %" if row else None
        step.advance(done - step.done, note)

    summary = fit(network, head, dataset, settings, job.folder, job.run.device, on_step=show)
    about = {"template": template.name, "head": settings.head.model_dump(), "people": len(people), "crops": len(names)}
    save_model(job.folder, network, shape | about, head=head)
    return {"people": len(people), "crops": len(names)} | loaded | summary


def _load_head(start: Path | None, head: nn.Module) -> dict[str, Any]:
    """Caffe's rule: the classifier goes on from the one of the same name and shape, where the start has one."""
    from sfplus.weights.checkpoint import copy_by_name, load_tensors

    if start is None:
        return {}
    if not (start / HEAD).is_file():
        return {"classifier": "new: the start has none"}
    report = copy_by_name(load_tensors(start / HEAD), head)
    return {"classifier": "loaded" if "weight" in report.loaded else "new: the start knows other people"}


TRAIN = Stage("train", 1, _build_train)
FINETUNE = Stage("finetune", 1, _build_finetune)
