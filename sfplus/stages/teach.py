"""Stage `teach`: crops to the features of a teacher, computed once, by several processes, and resumed after a kill."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
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
from sfplus.artifacts.inputs import PackFolder
from sfplus.artifacts.layout import CROPS
from sfplus.artifacts.stage import Job
from sfplus.artifacts.teacher_features import ABOUT, FEATURES, INDEX, crop_names, crop_origin
from sfplus.artifacts.work_sharing import SharedWork
from sfplus.datasets.formats.pack import Pack
from sfplus.errors import PhotoError, UsageError, WeightsError
from sfplus.images import Pixels, read_photo
from sfplus.io.files import file_digest, write_atomically, write_json
from sfplus.io.prefetch import prefetch_map
from sfplus.io.tables import write_parquet
from sfplus.networks.embed import default_batch_size, embed_batches
from sfplus.recipes.settings.teacher import TeachSettings
from sfplus.weights.model_folder import crop_template

PART = 512  # crops; after a kill at most these are computed again
TeachJob = Job[TeachSettings]


def build(job: TeachJob) -> dict[str, Any]:
    """Compute the features of all crops and write them as one file, with the names of the crops."""
    share(job)
    names = crop_names(job.inputs["crops"])
    starts = range(0, len(names), PART)
    shape = np.load(_part_file(job, 0), mmap_mode="r").shape[1:]
    table = np.lib.format.open_memmap(job.folder / FEATURES, "w+", np.float16, (len(names), *shape))
    for part, start in enumerate(starts):
        table[start : start + PART] = np.load(_part_file(job, part))
    table.flush()
    write_parquet(job.folder / INDEX, {"crop": names})
    path, licence = job.input_folder("model"), job.load_model("model").config.get("licence")
    sha256 = file_digest(path) if path.is_file() else job.inputs["model"].content
    about = {"crops": crop_origin(job.inputs["crops"]), "sha256": sha256, "licence": str(licence or "")}
    write_json(job.folder / ABOUT, about)
    return {"crops": len(names), "feature": shape[1]}


def share(job: TeachJob) -> None:
    """Compute features until no crop is left, in any number of processes at once."""
    where, model, device = job.input_folder("model"), job.load_model("model"), job.context.device
    reader = _CropReader(job, find_template(crop_template(model.config, where)))
    preprocessing = replace(model.preprocessing, mirror=job.settings.mirror)
    size = default_batch_size(device, preprocessing.mirror)
    with SharedWork(job, range(len(reader.names)), PART, "crops") as work:
        for items in work.rounds():
            for part, group in groupby(items, itemgetter(0)):
                rows = [row for _, row in group]
                features = np.concatenate(
                    list(embed_batches(model.network, reader.batches(rows, size), device, preprocessing))
                )
                directions = _directions(features, job.settings.mirror, [reader.names[row] for row in rows], where)
                buffer = io.BytesIO()
                np.save(buffer, directions.astype(np.float16))
                write_atomically(_part_file(job, part), buffer.getvalue())
                work.finish(part, [])


def _part_file(job: TeachJob, part: int) -> Path:
    return job.parts / f"{part:06}.npy"


def _directions(
    features: NDArray[np.float32], mirrored: bool, names: Sequence[str], where: Path
) -> NDArray[np.float32]:
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
    return np.asarray(sides / lengths, np.float32)


class _CropReader:
    """Reads the crops of an `align` artefact or of a pack.

    Args:
        job: the job, with the input `crops`.
        template: the template that the teacher was trained on.

    Attributes:
        names: the names of all crops.

    Raises:
        UsageError: If the crops follow another template, or a pack has crops of another size.
    """

    def __init__(self, job: TeachJob, template: Template) -> None:
        self._size = (template.height, template.width)
        source = job.inputs["crops"]
        self.names = crop_names(source)
        self._pack, self._folder = None, Path()
        if isinstance(source, PackFolder):
            self._pack = Pack(source.root)
            if (self._pack.height, self._pack.width) != self._size:
                reason = f"its crops are {self._pack.height}x{self._pack.width}, the teacher takes {template.size}"
                remedy = "train on photos, which are also aligned for the teacher, or use another teacher"
                raise UsageError(reason, where=source.root, remedy=remedy)
            return
        assert isinstance(source, Artefact)
        self._folder = source.folder / CROPS
        if (aligned_to := source.manifest["settings"]["template"]) != template.name:
            reason = f"the crops follow {aligned_to}, the teacher was trained on {template.name}"
            raise UsageError(reason, where=source.folder, remedy=f"align to {template.name}")

    def batches(self, rows: Sequence[int], size: int) -> Iterator[Tensor]:
        """Yield crops in order as uint8 RGB (N, H, W, 3) with N <= size; threads decode a few batches ahead."""
        crops = []
        for crop in prefetch_map(self._read, rows, 2 * size, threads=4):
            crops.append(crop)
            if len(crops) == size:
                yield torch.from_numpy(np.stack(crops))
                crops.clear()
        if crops:
            yield torch.from_numpy(np.stack(crops))

    def _read(self, row: int) -> Pixels:
        if self._pack is not None:
            return np.asarray(self._pack.take(np.array([row]))[0])
        path = self._folder / self.names[row]
        crop = read_photo(path)
        if crop.shape[:2] != self._size:
            size = f"is {crop.shape[0]}x{crop.shape[1]} (height x width), not {self._size[0]}x{self._size[1]}"
            raise PhotoError(size, where=path, remedy="delete this artefact of the stage align and run again")
        return crop
