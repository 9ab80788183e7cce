"""The work of `sfplus compare` and `sfplus export`: compare two photos; save a model with its threshold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sfplus.artifacts.cache import Artefact
from sfplus.errors import UsageError
from sfplus.images import encode_image
from sfplus.io.files import atomic_folder, check_folder, write_atomically
from sfplus.io.resources import DEFAULT_MODEL
from sfplus.io.tables import read_parquet
from sfplus.stages.embed import FEATURES, INDEX
from sfplus.stages.verify import RESULT, SCORES
from sfplus.verification.decision import DecisionRule, similarity


def compare_photos(first: Path, second: Path, model: str, far: float | None, save: Path | None, device: str) -> None:
    """Print the similarity of the faces in two photos and whether they show the same person.

    Args:
        first: a photo.
        second: another photo.
        model: a model folder or the name of a model; empty for the default model.
        far: the false accept rate to decide at; None for the threshold of the verification.
        save: a folder for the two crops, or None.
        device: the device to run on.

    Raises:
        UsageError: If the model has not been verified, or `save` is not a folder.
        PhotoError: If a photo cannot be read or has no face.
    """
    from sfplus.embedder import Embedder

    if save:
        check_folder(save)
    embedder = Embedder(model or DEFAULT_MODEL, device)
    rule = DecisionRule.load(embedder.folder, embedder.config)
    rule.threshold(far)  # fail before the photos are read
    crops = embedder.crops([first, second])
    left, right = embedder.features(crops)
    print(rule.explain(float(similarity(left, right, rule.mean)), far))
    if save:
        save.mkdir(parents=True, exist_ok=True)
        for letter, path, crop in zip("AB", (first, second), crops, strict=True):
            target = save / f"{letter}-{path.stem}.png"
            write_atomically(target, encode_image(crop, ".png"))
            print(f"crop {letter}: {target}")


def export_model(artefacts: dict[str, Artefact], source: Path | None, folder: Path, half: bool) -> None:
    """Save the last verified model with its threshold, mean feature and verification scores.

    Args:
        artefacts: artefacts of a run up to `verify`, by step.
        source: the folder of the verified model, if it was not trained in this run.
        folder: the folder to create.
        half: store the weights as float16.

    Raises:
        UsageError: If the folder exists, or the protocol is not `sphereface`: the thresholds of the other protocols
            belong to different scores.
    """
    import torch
    from safetensors.numpy import load_file

    from sfplus.weights.loading import load_model
    from sfplus.weights.model_folder import save_model

    name = next(step for step in reversed(artefacts) if step.startswith("verify/")).removeprefix("verify/")
    trained = artefacts.get(name)
    model = trained.folder if trained else source
    assert model is not None, "a verified model is either an artefact or a folder of the user"
    network, config = load_model(model)
    features, verified = artefacts[f"embed/{name}"].folder, artefacts[f"verify/{name}"]
    result = json.loads((verified.folder / RESULT).read_text("utf-8"))
    if result["protocol"] != "sphereface":
        reason, remedy = "its thresholds apply to different scores", "export with verify.protocol=sphereface"
        raise UsageError(reason, where=f"protocol {result['protocol']}", remedy=remedy)
    table, index = read_parquet(verified.folder / SCORES), read_parquet(features / INDEX)
    row = {photo: number for number, photo in enumerate(index["photo"])}
    values = load_file(features / FEATURES)["features"]
    left, right = (values[[row[photo] for photo in table[side]]] for side in ("left", "right"))
    config |= {"verification": _verification_entry(result, verified.manifest, len(table["same"]))}
    with atomic_folder(folder) as part:
        save_model(part, network, config, dtype=torch.float16 if half else None)
        DecisionRule.from_pairs(left, right, np.array(table["same"])).save(part)
    print(f"model: {folder}")


def _verification_entry(result: dict[str, Any], manifest: dict[str, Any], pairs: int) -> dict[str, Any]:
    """Return the entry `verification` of `config.json`, which identifies the pairs by name and digest."""
    return {
        "protocol": result["protocol"], "accuracy": result["mean"], "standard_error": result["standard_error"],
        "threshold": float(np.mean(result["threshold"])), "undetected": result["undetected"],
        "pairs": f"{pairs} pairs of {Path(manifest['sources']['pairs']).name}",
        "pairs_sha256": manifest["inputs"]["pairs"],
    }  # fmt: skip
