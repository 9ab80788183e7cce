"""Stage `teach`: crops to the features of a teacher, computed once, by several processes, and resumed after a kill."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfplus.alignment.templates import Template, find_template
from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.inputs import PackFolder, StageInput
from sfplus.artifacts.layout import CROPS
from sfplus.artifacts.stage import Job
from sfplus.artifacts.teacher_features import ABOUT, FEATURES, INDEX, crop_names, crop_origin
from sfplus.artifacts.work_sharing import SharedWork
from sfplus.datasets.crops import CropDataset
from sfplus.datasets.formats.pack import Pack
from sfplus.errors import UsageError, WeightsError
from sfplus.io.files import file_digest, write_atomically, write_json
from sfplus.io.prefetch import prefetch_map
from sfplus.io.tables import write_parquet
from sfplus.networks.embed import default_batch_size, embed_batches
from sfplus.recipes.settings.teacher import TeachSettings
from sfplus.weights.find_model import crop_template

PART = 512  # crops; after a kill at most these are computed again
TeachJob = Job[TeachSettings]


def build(job: TeachJob) -> dict[str, Any]:
    """Compute the features of all crops and write them as one file, with the names of the crops."""
    share(job)
    names = crop_names(job.inputs["crops"])
    shape = np.load(_part_file(job, 0), mmap_mode="r").shape[1:]
    with (job.folder / FEATURES).open("wb") as file:  # not memory-mapped: a full disk would kill the process
        header = {"descr": "<f2", "fortran_order": False, "shape": (len(names), *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for part in range(-(-len(names) // PART)):
            file.write(np.load(_part_file(job, part)).astype("<f2", copy=False).tobytes())
    write_parquet(job.folder / INDEX, {"crop": names})
    path, licence = job.input_folder("model"), job.load_model("model").config.get("licence")
    sha256 = file_digest(path) if path.is_file() else job.inputs["model"].content
    about = {"crops": crop_origin(job.inputs["crops"]), "sha256": sha256, "licence": str(licence or "")}
    write_json(job.folder / ABOUT, about)
    return {"crops": len(names), "feature": shape[1]}


def share(job: TeachJob) -> None:
    """Compute features until no crop is left, in any number of processes at once."""
    where, model, device = job.input_folder("model"), job.load_model("model"), job.context.device
    names = crop_names(job.inputs["crops"])
    read = _open_crops(job.inputs["crops"], names, find_template(crop_template(model.config, where)))
    preprocessing = replace(model.preprocessing, mirror=job.settings.mirror)
    size = default_batch_size(device, preprocessing.mirror)
    with SharedWork(job, range(len(names)), PART, "crops") as work:
        for items in work.rounds():
            for part, group in groupby(items, itemgetter(0)):
                rows = np.array([row for _, row in group])
                batches = prefetch_map(read, np.split(rows, range(size, len(rows), size)), 2, threads=1)
                features = np.concatenate(list(embed_batches(model.network, batches, device, preprocessing)))
                buffer = io.BytesIO()
                np.save(buffer, _directions(features, job.settings.mirror, [names[row] for row in rows], where))
                write_atomically(_part_file(job, part), buffer.getvalue(), sync=False)
                work.finish(part, [], files=[_part_file(job, part).name])


def _part_file(job: TeachJob, part: int) -> Path:
    return job.parts / f"{part:06}.npy"


def _directions(
    features: NDArray[np.float32], mirrored: bool, names: Sequence[str], where: Path
) -> NDArray[np.float16]:
    """Return the directions of features (N, sides * F) as (N, sides, F); sides are the crop and its mirror image.

    Raises:
        WeightsError: If a feature is not finite or has the length 0; the crop is named.
    """
    sides = features.reshape(len(features), 2 if mirrored else 1, -1).astype(np.float64)
    lengths = np.linalg.norm(sides, axis=2, keepdims=True)
    for row in np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)).all((1, 2))).tolist():
        kind = "a feature of length 0" if np.isfinite(lengths[row]).all() else "NaN or infinity"
        remedy = "check its input (train.teacher.input), or use another teacher"
        raise WeightsError(f"the teacher gives {kind} for the crop {names[row]}", where=where, remedy=remedy)
    return np.asarray(sides / lengths, np.float16)


def _open_crops(source: StageInput, names: Sequence[str], template: Template) -> Callable[[NDArray[np.int64]], Tensor]:
    """Return a function that reads crops by their rows (N,), as uint8 RGB (N, H, W, 3).

    Raises:
        UsageError: If the crops follow another template, or a pack has crops of another size.
    """
    if isinstance(source, PackFolder):
        pack = Pack(source.root)
        if (pack.height, pack.width) != (template.height, template.width):
            reason = f"its crops are {pack.height}x{pack.width}, the teacher takes {template.size}"
            remedy = "train on photos, which are also aligned for the teacher, or use another teacher"
            raise UsageError(reason, where=source.root, remedy=remedy)
        return lambda rows: torch.from_numpy(pack.take(rows))
    assert isinstance(source, Artefact)
    if (aligned_to := source.manifest["settings"]["template"]) != template.name:
        reason = f"the crops follow {aligned_to}, the teacher was trained on {template.name}"
        raise UsageError(reason, where=source.folder, remedy=f"align to {template.name}")
    paths = [source.folder / CROPS / name for name in names]
    crops = CropDataset(paths, [0] * len(paths), template.height, template.width)
    return lambda rows: crops.batch(rows)[0]
