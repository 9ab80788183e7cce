"""Stage `embed`: crops to features, those of the crop and of its mirror image side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sfplus.artifacts.cache import Artefact, Job, Stage
from sfplus.artifacts.inputs import PhotoFolder, check_name
from sfplus.errors import DatasetError, PhotoError, UsageError
from sfplus.io.tables import FAILURES, read_parquet, write_json_lines, write_parquet
from sfplus.stages.align import CROPS, TABLE

if TYPE_CHECKING:
    from torch import Tensor

    from sfplus.alignment import Template
    from sfplus.images import Pixels

FEATURES, INDEX = "features.safetensors", "index.parquet"


class EmbedSettings(BaseModel):
    """The features of the SphereFace protocol (evaluation.m): fc5 of the crop, then fc5 of its mirror image."""

    model_config = ConfigDict(extra="forbid")

    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the arithmetic: float32 is the reference, bfloat16 the faster one where there is any"
    )


def _build(job: Job) -> dict[str, Any]:
    import numpy as np
    from safetensors.numpy import save_file

    from sfplus.alignment import find_template
    from sfplus.networks.embed import default_batch_size, embed_batches
    from sfplus.weights.loading import load_model
    from sfplus.weights.model_folder import crop_template

    settings: EmbedSettings = job.settings
    network, config = load_model(job.inputs["model"].folder)
    template = find_template(crop_template(config, job.inputs["model"].folder))
    reader = _Crops(job.inputs["crops"], template)
    step = job.run.bar
    step.start(len(reader.paths), "crops")
    device = job.run.device
    parts = []
    for features in embed_batches(network, reader.batches(default_batch_size(device)), device, dtype=settings.dtype):
        parts.append(features)
        step.advance(len(features), settings.dtype)
    if not parts:
        first = reader.failures[0]
        raise DatasetError(f"no crop can be used ({first['reason']})", where=first["photo"], remedy=first["remedy"])
    features = np.concatenate(parts)
    save_file({"features": features}, job.folder / FEATURES)
    write_parquet(job.folder / INDEX, reader.index)
    write_json_lines(job.folder / FAILURES, reader.failures)
    return {"crops": len(features), "feature": features.shape[1], "failures": len(reader.failures)}


class _Crops:
    """The crops of an align artefact, or of a folder of the user's, where some may be unusable.

    Attributes:
        paths: of all of them.
        index: the columns `photo` and `how` of those that `batches` has yielded.
        failures: what was wrong with the others.
    """

    def __init__(self, source: Artefact | PhotoFolder, template: Template) -> None:
        self._size = (template.height, template.width)
        self.index: dict[str, list[str]] = {"photo": [], "how": []}
        self.failures: list[dict[str, str]] = []
        self._users = isinstance(source, PhotoFolder)
        if isinstance(source, PhotoFolder):
            self._names = source.photos
            self._how = ["crop"] * len(self._names)
            self.paths = [source.root / name for name in self._names]
            return
        made = source.manifest["settings"]["template"]
        if made != template.name:
            raise UsageError(
                f"the crops follow {made}, the model was trained on {template.name}",
                where="align.template", remedy=f"align to {template.name}",
            )  # fmt: skip
        table = read_parquet(source.folder / TABLE)
        self._names, self._how = table["photo"], table["how"]
        self.paths = [source.folder / CROPS / name for name in table["crop"]]

    def batches(self, count: int) -> Iterator[Tensor]:
        """Crops in order, uint8 RGB (N, H, W, 3) with N <= count; threads decode a few ahead."""
        import numpy as np
        import torch

        from sfplus.io.prefetch import prefetch_map

        crops = []
        for row, crop in enumerate(prefetch_map(self._read, range(len(self.paths)), 2 * count, threads=4)):
            if isinstance(crop, PhotoError):
                failure = {"stage": "embed", "reason": crop.reason, "remedy": crop.remedy}
                self.failures.append({"photo": self._names[row], **failure})
                continue
            self.index["photo"].append(self._names[row])
            self.index["how"].append(self._how[row])
            crops.append(crop)
            if len(crops) == count:
                yield torch.from_numpy(np.stack(crops))
                crops.clear()
        if crops:
            yield torch.from_numpy(np.stack(crops))

    def _read(self, row: int) -> Pixels | PhotoError:
        from sfplus.images import is_transient, read_photo

        path = self.paths[row]
        try:
            check_name(self._names[row], path)
            crop = read_photo(path)
            if crop.shape[:2] != self._size:
                sizes = f"is {crop.shape[1]} x {crop.shape[0]} pixels, not {self._size[1]} x {self._size[0]}"
                raise PhotoError(sizes, where=path, remedy="embed it as a photo, without --crops")
        except PhotoError as error:
            if not self._users or is_transient(error):
                raise  # not the crop's fault: the stage stops
            return error
        return crop


STAGE = Stage("embed", 2, _build)
