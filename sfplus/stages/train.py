"""Stages `train` and `finetune`: crops of people to a network; both can be stopped at any moment and go on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from sfplus.artifacts.cache import Artefact, Job, Stage
from sfplus.artifacts.context import is_first
from sfplus.artifacts.inputs import PackFolder
from sfplus.datasets.identities import assign_labels, read_person_list
from sfplus.errors import DatasetError
from sfplus.io.tables import read_parquet
from sfplus.recipes.settings.train import EnergySettings, SolverSettings, TrainingSettings
from sfplus.stages.align import CROPS, TABLE
from sfplus.weights import HEAD

if TYPE_CHECKING:
    from torch import nn

    from sfplus.datasets.crops import CropDataset, PackedCrops
    from sfplus.hypersphere import Head, ShardedHead
    from sfplus.training.face_task import HeldOut


def _listed(value: Any) -> Any:
    """People in a recipe are names, or the file that lists them."""
    return read_person_list(Path(value)) if isinstance(value, str) else value


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

    from sfplus.weights.loading import load_model

    torch.manual_seed(job.settings.seed)
    start = job.inputs["start"].folder
    network, config = load_model(start)
    learned = _crops(job.inputs["crops"], job.settings.exclude)
    if learned.size != config.get("input", "112x96"):
        reason = f"the model to start from takes {config.get('input', '112x96')} crops, not {learned.size}"
        raise DatasetError(reason, where=start, remedy="align with its template")
    return _fit(job, network, {key: config[key] for key in ("network", "feature_size", "width")}, learned)


def _fit(job: Job, network: nn.Module, shape: dict[str, Any], learned: _Learned) -> dict[str, Any]:
    from sfplus.training.face_task import fit
    from sfplus.training.head_ops import create_head, whole_head
    from sfplus.weights.model_folder import save_model

    people, dataset = learned.people, learned.crops
    settings: SolverSettings = job.settings.in_steps(len(dataset))
    head = create_head(settings, shape["feature_size"], len(people))
    loaded = _load_head(job.inputs["start"].folder if "start" in job.inputs else None, head)
    if loaded:
        job.run.console.print(
            f"the network goes on from {job.inputs['start'].folder}; classifier: {loaded['classifier']}"
        )

    def show(done: int, row: dict[str, Any]) -> None:
        note = f"loss {row['loss']:.3f}, accuracy {100 * row['accuracy']:.1f} %" if row else None
        job.run.bar.update(done, settings.max_iter, "steps", note)

    held_out = _held_out(job, learned) if settings.evaluate_every and "pairs" in job.inputs else None
    summary = fit(network, head, dataset, settings, job.folder, job.run.device, on_step=show, held_out=held_out)
    whole = whole_head(head, settings)  # of which the processes may hold parts
    if not is_first():
        return {}
    about = {
        "template": learned.template,
        "head": settings.head.model_dump(),
        "people": len(people),
        "crops": len(dataset),
    }
    save_model(job.folder, network, shape | about, head=whole)
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
    people, labels, names = assign_labels(read_parquet(source.folder / TABLE)["crop"], exclude)
    template = TEMPLATES[source.manifest["settings"]["template"]]
    paths = [source.folder / CROPS / name for name in names]
    return _Learned(people, CropDataset(paths, labels, template.height, template.width), template.name)


def _load_head(start: Path | None, head: Head | ShardedHead) -> dict[str, Any]:
    """Caffe's rule: the classifier goes on from the one of the same name and shape, where the start has one."""
    from sfplus.training.head_ops import copy_classes
    from sfplus.weights.model_folder import load_tensors

    if start is None:
        return {}
    if not (start / HEAD).is_file():
        return {"classifier": "new: the start has none"}
    tensors = load_tensors(start / HEAD)
    if copy_classes(tensors, head):
        return {"classifier": "loaded"}
    known = len(tensors["weight"]) if "weight" in tensors else 0
    return {"classifier": f"new: the start knows other people ({known})"}


def _held_out(job: Job, learned: _Learned) -> HeldOut:
    """Accuracy of the sphereface protocol on the pairs, of those whose photos have crops."""
    import numpy as np

    from sfplus.datasets.crops import CropDataset
    from sfplus.datasets.pairs import read_pairs
    from sfplus.device import Device
    from sfplus.networks.embed import default_batch_size, embed_batches
    from sfplus.verification.protocols import PROTOCOLS

    source, pairs = job.inputs["held_out"], read_pairs(job.inputs["pairs"].path)
    if source.manifest["settings"]["template"] != learned.template:
        reason = f"the held-out crops follow {source.manifest['settings']['template']}, not {learned.template}"
        raise DatasetError(reason, where=job.inputs["pairs"].path, remedy="align both alike")
    table = read_parquet(source.folder / TABLE)
    row = {PurePosixPath(photo).with_suffix("").as_posix(): number for number, photo in enumerate(table["photo"])}
    sides = np.array([[row.get(name, -1) for name in names] for names in (pairs.left, pairs.right)])
    there = (sides >= 0).all(0)
    used, (left, right) = np.unique(sides[:, there], return_inverse=True)
    paths = [source.folder / CROPS / table["crop"][number] for number in used]
    crops = CropDataset(paths, [0] * len(paths), learned.crops.height, learned.crops.width)
    parts = np.array_split(np.arange(len(paths)), -(-len(paths) // default_batch_size(job.run.device)))

    def accuracy(network: nn.Module) -> dict[str, float]:
        device = Device(next(network.parameters()).device)  # with several processes not always the one asked for
        batches = (crops.batch(part)[0] for part in parts)
        features = np.concatenate(list(embed_batches(network, batches, device)))
        same, fold = pairs.same[there], pairs.fold[there]
        return {"accuracy": PROTOCOLS["sphereface"](features[left], features[right], same, fold, mirrored=True).mean}

    return accuracy


TRAIN = Stage("train", 1, _build_train)
FINETUNE = Stage("finetune", 1, _build_finetune)
