"""Teachers for tests, crops for them without a detector, and features of a teacher without a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper
from PIL import Image

from sfplus.artifacts.artefact import Artefact, commit
from sfplus.artifacts.layout import CROP_TABLE, CROPS
from sfplus.artifacts.teacher_features import ABOUT, FEATURES, INDEX, crop_origin
from sfplus.io.tables import write_parquet

Network = Callable[[torch.Tensor], torch.Tensor]


def colour_network() -> Network:
    """Return a network whose features are the mean colours of 4x4 fields: (N, 3, H, W) -> (N, 48)."""
    return lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)


def write_onnx(path: Path) -> Path:
    """Write a graph whose features are the mean of each channel: (N, 3, 112, 96) -> (N, 3)."""
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["m"]), helper.make_node("Flatten", ["m"], ["feature"])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 112, 96])]
    outputs = [helper.make_tensor_value_info("feature", TensorProto.FLOAT, ["N", 3])]
    graph = helper.make_graph(nodes, "means", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def nan_network() -> Network:
    """Return the same, which gives NaN for a white crop."""
    return lambda x: colour_network()(x).masked_fill(x.amin((1, 2, 3))[:, None] > 0.5, torch.nan)


def zero_network() -> Network:
    """Return a network whose features of a white crop have the length 0."""
    return lambda x: (1 - x).flatten(2).mean(2)


def align_artefact(
    folder: Path,
    crops: Mapping[str, np.ndarray],
    template: str = "sphereface-112x96",
    inputs: Mapping[str, str] | None = None,
) -> Artefact:
    """Write crops, uint8 RGB (H, W, 3) by name, as the stage `align` does."""
    partial = folder.with_suffix(".partial")
    for name, pixels in crops.items():
        (partial / CROPS / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(partial / CROPS / name)
    write_parquet(partial / CROP_TABLE, {"photo": list(crops), "crop": list(crops), "how": ["face"] * len(crops)})
    inputs = inputs or {"photos": "p", "faces": "f"}
    return commit(partial, folder, manifest_of("align", folder, settings={"template": template}, inputs=inputs))


def manifest_of(stage: str, folder: Path, **values: Any) -> dict[str, Any]:
    """Return a manifest as `run_stage` writes it."""
    keys = {"settings": {}, "inputs": {}, "sources": {}, "counts": {}} | values
    return {"stage": stage, "version": 1, "fingerprint": folder.name, "device": "cpu", "seconds": 0.0} | keys


def random_crops(count: int, height: int = 112, width: int = 96) -> dict[str, np.ndarray]:
    """Return crops by name, of two people."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 14, 12, 3), dtype=np.uint8)
    large = [np.asarray(Image.fromarray(crop).resize((width, height))) for crop in pixels]
    return {f"person {number % 2}/{number}.png": crop for number, crop in enumerate(large)}


def features_artefact(
    folder: Path, crops: Artefact, names: Sequence[str], features: np.ndarray, sha256: str = "5" * 64
) -> Artefact:
    """Write features (N, sides, F) of the named crops, as the stage `teach` does."""
    partial = folder.with_suffix(".partial")
    partial.mkdir(parents=True)
    np.save(partial / FEATURES, features.astype(np.float16))
    write_parquet(partial / INDEX, {"crop": list(names)})
    about = {"crops": crop_origin(crops), "sha256": sha256, "licence": ""}
    (partial / ABOUT).write_text(json.dumps(about))
    return commit(partial, folder, manifest_of("teach", folder, sources={"model": "models/teacher.onnx"}))
