"""Stage `embed`: crops to features, those of the crop and of its mirror image side by side."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from sfplus.stages.align import CROPS, TABLE
from sfplus.stages.cache import Job, Stage
from sfplus.stages.tables import read_table, write_table

FEATURES, INDEX = "features.safetensors", "index.parquet"
_BATCH = 64  # crops; fixed, so that a feature never depends on a setting


class EmbedSettings(BaseModel):
    """The features of the SphereFace protocol (evaluation.m): fc5 of the crop, then fc5 of its mirror image."""

    model_config = ConfigDict(extra="forbid")


def _build(job: Job) -> dict[str, Any]:
    from safetensors.numpy import save_file

    from sfplus.datasets.crops import CropDataset
    from sfplus.networks.embed import embed
    from sfplus.weights.checkpoint import crop_template, load_model

    model, crops = job.inputs["model"], job.inputs["crops"]
    network, config = load_model(model.folder)
    template = crops.manifest["settings"]["template"]
    table = read_table(crops.folder / TABLE)
    height, width = _crop_size(crop_template(config, model.folder), template)
    dataset = CropDataset(
        [crops.folder / CROPS / name for name in table["crop"]], [0] * len(table["crop"]), height, width
    )
    step = job.run.bar
    step.start(len(dataset), "crops")
    features = embed(network, dataset, job.run.device, batch_size=_BATCH, on_batch=step.advance)
    save_file({"features": features}, job.folder / FEATURES)
    write_table(job.folder / INDEX, {"photo": table["photo"], "how": table["how"]})
    return {"crops": len(features), "feature": features.shape[1]}


def _crop_size(trained: str, template: str) -> tuple[int, int]:
    from sfplus.alignment import TEMPLATES
    from sfplus.errors import UsageError

    if trained != template:
        raise UsageError(
            f"the crops follow {template}, the model was trained on {trained}",
            where="align.template", remedy=f"align to {trained}",
        )  # fmt: skip
    return TEMPLATES[template].height, TEMPLATES[template].width


STAGE = Stage("embed", 1, _build)
