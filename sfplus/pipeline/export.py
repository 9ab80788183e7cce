"""Export of a verified model with its threshold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.layout import FEATURE_INDEX, FEATURES, RESULT, SCORES
from sfplus.errors import UsageError
from sfplus.io.files import atomic_folder
from sfplus.io.tables import read_parquet
from sfplus.verification.decision import DecisionRule
from sfplus.weights.loading import load_model
from sfplus.weights.model_folder import save_model


def export_model(artefacts: dict[str, Artefact], source: Path | None, folder: Path, half: bool) -> None:
    """Save the last model that was verified, with the threshold, mean feature and scores of its verification.

    Args:
        artefacts: The artefacts of a run up to `verify`.
        source: The folder of the model, if the run did not train it.
        folder: The folder to create.
        half: Whether to store float16.

    Raises:
        UsageError: If the folder exists, or the protocol was not `sphereface`: the thresholds of the other protocols do
            not apply to the scores of `sfplus compare`.
    """
    name = next(step for step in reversed(artefacts) if step.startswith("verify/")).removeprefix("verify/")
    model = artefacts[name].folder if name in artefacts else source
    assert model is not None, "a verified model is an artefact or the user's"
    network, config = load_model(model)
    features, verified = artefacts[f"embed/{name}"].folder, artefacts[f"verify/{name}"]
    result = json.loads((verified.folder / RESULT).read_text("utf-8"))
    if result["protocol"] != "sphereface":
        remedy = "export with verify.protocol=sphereface"
        raise UsageError(
            "its thresholds apply to different scores", where=f"protocol {result['protocol']}", remedy=remedy
        )
    table, index = read_parquet(verified.folder / SCORES), read_parquet(features / FEATURE_INDEX)
    row_of = {photo: row for row, photo in enumerate(index["photo"])}
    values = load_file(features / FEATURES)["features"]
    left, right = (values[[row_of[photo] for photo in table[side]]] for side in ("left", "right"))
    config |= {"verification": _describe_verification(result, verified.manifest, len(table["same"]))}
    with atomic_folder(folder) as partial:
        save_model(partial, network, config, dtype=torch.float16 if half else None)
        DecisionRule.from_pairs(left, right, np.array(table["same"])).save(partial)
    print(f"model: {folder}")


def _describe_verification(result: dict[str, Any], manifest: dict[str, Any], pairs: int) -> dict[str, Any]:
    """Return the entry of `config.json` about the verification, which identifies its pairs."""
    return {
        "protocol": result["protocol"], "accuracy": result["mean"], "standard_error": result["standard_error"],
        "threshold": float(np.mean(result["threshold"])), "undetected": result["undetected"],
        "pairs": f"{pairs} pairs of {Path(manifest['sources']['pairs']).name}",
        "pairs_sha256": manifest["inputs"]["pairs"],
    }  # fmt: skip
