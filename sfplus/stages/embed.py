"""Stage `embed`: crops to features, of the crop and, where the model asks for it, of its mirror image; resumable."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor

from sfplus.alignment import narrow_crop
from sfplus.alignment.templates import DEFAULT_TEMPLATE, Template, find_template
from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.cache import open_earlier
from sfplus.artifacts.file_record import read_digests
from sfplus.artifacts.inputs import PhotoFolder, StageInput, check_name, is_utf8
from sfplus.artifacts.layout import (
    CROP_COLUMNS,
    CROP_TABLE,
    CROPS,
    FEATURE_INDEX,
    FEATURES,
    NOT_MIRRORED,
    read_features,
)
from sfplus.artifacts.pair_inputs import BinCrops
from sfplus.artifacts.settings import deciding_settings
from sfplus.artifacts.stage import Job
from sfplus.artifacts.work_sharing import SharedWork
from sfplus.errors import ArtefactError, NoUsablePhotoError, PhotoError, UsageError
from sfplus.images import Pixels, is_transient, read_photo, reserve_memory
from sfplus.io.cpus import count_decoders
from sfplus.io.disk import explain_write
from sfplus.io.files import file_digest, write_atomically
from sfplus.io.prefetch import Reserve, prefetch_batches
from sfplus.io.tables import FAILURES, read_parquet, write_json_lines, write_parquet
from sfplus.networks.embed import default_batch_size, embed_batches
from sfplus.recipes.settings.embed import EmbedSettings
from sfplus.verification.features import Features
from sfplus.weights.find_model import crop_template

BATCHES = 16  # in a part; after a kill at most these are computed again
_MEMORY = 200_000_000  # bytes of the crops that are read in advance; a larger image, which is no crop, is read alone


def build(job: Job[EmbedSettings]) -> dict[str, Any]:
    """Compute the features of all crops and write them with their index."""
    model = job.load_model("model")
    template = find_template(crop_template(model.config, job.input_folder("model")))
    reader = _CropReader(job.inputs["crops"], template)
    earlier = _EarlierFeatures(job, reader)
    work = _compute(job, reader, earlier.find())
    crops = work.rows()
    failures = [crop["failure"] for crop in crops if crop["failure"]]
    rows = [crop["row"] for crop in crops if not crop["failure"]]
    if not rows:
        first = failures[0]
        reason = f"no crop can be used ({first['reason']})"
        raise NoUsablePhotoError(reason, where=first["photo"], remedy=first["remedy"], failures=failures)
    features = np.concatenate([np.load(job.parts / name) for name in sorted(work.files())])
    with explain_write(job.folder / FEATURES):
        save_file({"features": features}, job.folder / FEATURES, None if model.preprocessing.mirror else NOT_MIRRORED)
    write_parquet(job.folder / FEATURE_INDEX, reader.index(rows))
    write_json_lines(job.folder / FAILURES, failures)
    earlier.put(rows)
    return {"crops": len(features), "feature": features.shape[1], "failures": len(failures)}


def _compute(job: Job[EmbedSettings], reader: _CropReader, reused: Mapping[int, Features]) -> SharedWork:
    """Compute features part by part, so that a run that is killed leaves the finished parts to the next one."""
    model, device, dtype = job.load_model("model"), job.context.device, job.settings.dtype
    size = default_batch_size(device, model.preprocessing.mirror)
    with SharedWork(job, range(len(reader)), size * BATCHES, "crops", reader.name) as work:
        for items in work.rounds():
            for part, group in groupby(items, itemgetter(0)):
                rows = [row for _, row in group]
                unknown = [row for row in rows if row not in reused]
                batches = reader.batches(unknown, size, count_decoders(device.is_cuda))
                computed = embed_batches(model.network, batches, device, model.preprocessing, dtype) if unknown else ()
                features = list(chain.from_iterable(computed))  # before the failures are known
                new = dict(zip((row for row in unknown if row not in reader.failures), features, strict=True))
                used = [reused[row] if row in reused else new[row] for row in rows if row not in reader.failures]
                if used:
                    buffer = io.BytesIO()
                    np.save(buffer, np.stack(used))
                    write_atomically(job.parts / f"{part:06}.npy", buffer.getvalue(), sync=False)
                records = [{"row": row, "failure": reader.failures.get(row)} for row in rows]
                work.finish(part, records, dtype, files=[f"{part:06}.npy"] if used else [])
    return work


class _EarlierFeatures:
    """The features of earlier artefacts of this model, by the content of the crop."""

    def __init__(self, job: Job[EmbedSettings], reader: _CropReader) -> None:
        stage, self._folder = job.settings.stage, job.folder
        deciding = [stage.version, deciding_settings(job.settings), job.inputs["model"].content, reader.narrowed]
        deciding += [job.inputs["network"].content] if "network" in job.inputs else []
        self._index = job.context.result_index(stage.name, deciding)
        self._keys = reader.digests()
        self._name = reader.name

    def find(self) -> dict[int, Features]:
        """Return the features that are known, by the row of their crop."""
        places, loaded, features = self._index.get(self._keys), dict[str, Features | None](), dict[int, Features]()
        for row, key in enumerate(self._keys):
            folder, _, index = places.get(key, "").partition("/")
            if folder and folder not in loaded:
                artefact = open_earlier(self._folder.parent / folder)
                loaded[folder] = None
                with contextlib.suppress(ArtefactError):
                    loaded[folder] = read_features(artefact.folder)[0] if artefact else None
            if is_utf8(self._name(row)) and (table := loaded.get(folder)) is not None:
                features[row] = table[int(index)]
        return features

    def put(self, rows: Sequence[int]) -> None:
        """Remember the features of an artefact, whose crops are in these rows."""
        self._index.put((self._keys[row], f"{self._folder.stem}/{index}") for index, row in enumerate(rows))


class _CropReader:
    """Reads the crops of an align artefact, or of a folder of the user's, in which some may be unusable.

    Args:
        source: The artefact or the folder.
        template: The template that the model was trained on.

    Attributes:
        narrowed: Whether crops of 112x112 are cut to 112x96.
        failures: The reason and remedy of each crop that `batches` could not use, by its row.
    """

    def __init__(self, source: StageInput, template: Template) -> None:
        self._size = (template.height, template.width)
        self._source = source
        self.failures: dict[int, dict[str, str]] = {}
        self._may_fail = isinstance(source, PhotoFolder)
        self.narrowed = isinstance(source, BinCrops) and _must_be_narrowed(source, template)
        if isinstance(source, PhotoFolder):
            self._names = source.photos
            self._how = ["crop"] * len(self._names)
            self._root, self._files = source.root, self._names
            return
        assert isinstance(source, Artefact)
        aligned_to = source.manifest["settings"]["template"]
        if aligned_to != template.name:
            raise UsageError(
                f"the crops follow {aligned_to}, the model was trained on {template.name}",
                where="align.template", remedy=f"align to {template.name}",
            )  # fmt: skip
        table = read_parquet(source.folder / CROP_TABLE, CROP_COLUMNS)
        self._names, self._how = table["photo"], table["how"]
        self._root, self._files = source.folder / CROPS, table["crop"]

    def __len__(self) -> int:
        return len(self._files)

    def digests(self) -> list[str]:
        """Return the SHA-256 of each crop."""
        if isinstance(self._source, PhotoFolder):
            return list(self._source.digests.values())
        assert isinstance(self._source, Artefact)
        digests = read_digests(self._source.folder)
        return [digests.get(f"{CROPS}/{name}") or file_digest(self._root / name) for name in self._files]

    def index(self, rows: Sequence[int]) -> dict[str, list[str]]:
        """Return the columns `photo` and `how` of some rows."""
        return {"photo": [self._names[row] for row in rows], "how": [self._how[row] for row in rows]}

    def name(self, row: int) -> str:
        """Return the name of the photo of a crop."""
        return self._names[row]

    def batches(self, rows: Sequence[int], size: int, threads: int) -> Iterator[Tensor]:
        """Yield crops in order as uint8 RGB (N, H, W, 3) with N <= size; threads decode a few batches ahead.

        Args:
            rows: The rows of the crops.
            size: The largest number of crops in a batch.
            threads: The number of threads.
        """
        crops = []
        decoded = prefetch_batches(self._read, rows, 2 * size, threads, size=_count_bytes, memory=_MEMORY)
        for row, crop in zip(rows, chain.from_iterable(decoded), strict=True):
            if isinstance(crop, PhotoError):
                failure = {"stage": "embed", "reason": crop.reason, "remedy": crop.remedy}
                self.failures[row] = {"photo": self._names[row], **failure}
                continue
            crops.append(crop)
            if len(crops) == size:
                yield torch.from_numpy(np.stack(crops))
                crops.clear()
        if crops:
            yield torch.from_numpy(np.stack(crops))

    def _read(self, row: int, reserve: Reserve) -> Pixels | PhotoError:
        path = self._root / self._files[row]
        try:
            check_name(self._names[row], path)
            crop = read_photo(path, inspect=reserve_memory(reserve))
            if self.narrowed:
                crop = narrow_crop(crop, str(path))
            if crop.shape[:2] != self._size:
                sizes = f"is {crop.shape[0]}x{crop.shape[1]} (height x width), not {self._size[0]}x{self._size[1]}"
                raise PhotoError(sizes, where=path, remedy="embed it as a photo, without --crops")
        except PhotoError as error:
            if not self._may_fail or is_transient(error):
                raise  # a fault of the disk or of the cache, not of the crop: the stage stops
            return error
        return crop


def _count_bytes(crop: Pixels | PhotoError) -> int:
    return 0 if isinstance(crop, PhotoError) else crop.nbytes


def _must_be_narrowed(source: BinCrops, template: Template) -> bool:
    """Return whether the crops of a `.bin` file are cut to 112x96, the part that the narrower template shows.

    Raises:
        UsageError: If the model was trained on crops of a third template.
    """
    if template.name in (source.template, DEFAULT_TEMPLATE):
        return template.name == DEFAULT_TEMPLATE
    raise UsageError(
        f"its crops follow {source.template}, the model was trained on {template.name}",
        where=source.path,
        remedy=f"verify this model on photos; crops can be used for {source.template} and, cut, for {DEFAULT_TEMPLATE}",
    )
