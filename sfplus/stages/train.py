"""Stages `train` and `finetune`: crops of people to a network; both can be stopped at any moment and go on."""

from __future__ import annotations

from dataclasses import dataclass
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
    learned = _crops(job.inputs["crops"], settings.exclude)
    options = settings.model_dump(include={"block", "batch_norm"}) | {"input": learned.size}
    network = create(settings.network, feature_size=settings.feature_size, width=settings.width, **options)
    return _fit(job, network, shape, learned)


def _build_finetune(job: Job) -> dict[str, Any]:
    import torch

    from sfplus.weights.sources import load_model

    torch.manual_seed(job.settings.seed)
    start = job.inputs["start"].folder
    network, config = load_model(start)
    learned = _crops(job.inputs["crops"], job.settings.exclude)
    if learned.size != config.get("input", "112x96"):
        reason = f"the model to start from takes {config.get('input', '112x96')} crops, not {learned.size}"
        raise DatasetError(reason, where=start, remedy="align with its template")
    return _fit(job, network, {key: config[key] for key in ("network", "feature_size", "width")}, learned)


def _fit(job: Job, network: nn.Module, shape: dict[str, Any], learned: _Learned) -> dict[str, Any]:
    from sfplus.hypersphere import HEADS
    from sfplus.training.loop import fit
    from sfplus.weights.checkpoint import save_model

    settings: SolverSettings = job.settings
    people, dataset = learned.people, learned.crops
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
    about = {
        "template": learned.template,
        "head": settings.head.model_dump(),
        "people": len(people),
        "crops": len(dataset),
    }
    save_model(job.folder, network, shape | about, head=head)
    return {"people": len(people), "crops": len(dataset)} | loaded | summary


@dataclass(frozen=True)
class _Learned:
    """People, their crops and the template that these follow."""

    people: list[str]
    crops: CropDataset | PackedCrops
    template: str

    @property
    def size(self) -> str:
        """Height x width of a crop, as networks name it."""
        return f"{self.crops.height}x{self.crops.width}"


def _crops(source: Artefact | PackFolder, exclude: tuple[str, ...]) -> _Learned:
    from sfplus.alignment import TEMPLATES
    from sfplus.datasets.crops import CropDataset, PackedCrops

    if isinstance(source, PackFolder):
        packed = PackedCrops(source.root, exclude)
        found = [name for name, each in TEMPLATES.items() if (each.height, each.width) == (packed.height, packed.width)]
        if not found:
            reason = f"its crops are {packed.height} x {packed.width}, these networks take 112 x 96 or 112 x 112"
            raise DatasetError(reason, where=source.root, remedy="align the photos again, and pack their crops")
        return _Learned(packed.people, packed, found[0])
    people, labels, names = identities(read_table(source.folder / TABLE)["crop"], exclude)
    template = TEMPLATES[source.manifest["settings"]["template"]]
    paths = [source.folder / CROPS / name for name in names]
    return _Learned(people, CropDataset(paths, labels, template.height, template.width), template.name)


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
