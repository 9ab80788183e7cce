"""Stages `train` and `finetune`: crops of people to a network; both can be stopped at any moment and go on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from sfplus.datasets.folders import identities, read_people
from sfplus.errors import DatasetError
from sfplus.stages.align import CROPS, TABLE
from sfplus.stages.cache import Artefact, Job, Stage
from sfplus.stages.inputs import PackFolder
from sfplus.stages.run import is_first
from sfplus.stages.tables import read_table
from sfplus.training.settings import EnergySettings, SolverSettings, TrainingSettings
from sfplus.weights import HEAD

if TYPE_CHECKING:
    from torch import nn

    from sfplus.datasets.crops import CropDataset, PackedCrops

HISTORY = "history.jsonl"


def _listed(value: Any) -> Any:
    """People in a recipe are names, or the file that lists them."""
    return read_people(Path(value)) if isinstance(value, str) else value


People = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class TrainSettings(TrainingSettings):
    """A-Softmax training from scratch."""

    exclude: People = Field(
        (),
        description="people to leave out, because the test set has them (get_list.m): names, or a file with one a line",
    )


class FinetuneSettings(SolverSettings):
    """SphereFace+: the same loss and the energy of the classifier, from a trained model of any size."""

    energy: EnergySettings = Field(
        EnergySettings(), description="minimum hyperspherical energy of the classifier (MHE paper, section 5.2)"
    )
    exclude: People = Field((), description="people to leave out; empty: those that train leaves out")


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
    from sfplus.hypersphere import HEADS
    from sfplus.training.loop import fit
    from sfplus.weights.checkpoint import save_model

    settings: SolverSettings = job.settings
    people, dataset, template = _crops(job.inputs["crops"], job.settings.exclude)
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
    if not is_first():
        return {}
    about = {"template": template, "head": settings.head.model_dump(), "people": len(people), "crops": len(dataset)}
    save_model(job.folder, network, shape | about, head=head)
    return {"people": len(people), "crops": len(dataset)} | loaded | summary


def _crops(source: Artefact | PackFolder, exclude: tuple[str, ...]) -> tuple[list[str], CropDataset | PackedCrops, str]:
    """The people, their crops and the name of the template that they follow."""
    from sfplus.alignment import TEMPLATES
    from sfplus.datasets.crops import CropDataset, PackedCrops

    if isinstance(source, PackFolder):
        packed = PackedCrops(source.root, exclude)
        wanted = TEMPLATES["sphereface-112x96"]
        if (packed.height, packed.width) != (wanted.height, wanted.width):
            reason = f"its crops are {packed.width} x {packed.height}, these networks take 96 x 112"
            raise DatasetError(reason, where=source.root, remedy="pack 112 x 112 crops with --narrow, or align again")
        return packed.people, packed, wanted.name
    people, labels, names = identities(read_table(source.folder / TABLE)["crop"], exclude)
    template = TEMPLATES[source.manifest["settings"]["template"]]
    paths = [source.folder / CROPS / name for name in names]
    return people, CropDataset(paths, labels, template.height, template.width), template.name


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
