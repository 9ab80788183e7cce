"""Two photos, one question; and models saved with the threshold that answers it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sfplus.artifacts.artefact import Artefact
from sfplus.errors import UsageError
from sfplus.images import encode_image
from sfplus.io.files import check_folder, new_folder, write_atomically
from sfplus.io.resources import DEFAULT_MODEL
from sfplus.io.tables import read_table
from sfplus.stages.embed import FEATURES, INDEX
from sfplus.stages.verify import RESULT, SCORES
from sfplus.verification.decision import Judge, similarity


def compare_photos(first: Path, second: Path, model: str, far: float | None, save: Path | None, device: str) -> None:
    """Print the similarity of the faces of two photos and the decision at the model's threshold, or at a FAR."""
    from sfplus.embedder import Embedder

    if save:
        check_folder(save)
    embedder = Embedder(model or DEFAULT_MODEL, device)
    judge = Judge.load(embedder.folder, embedder.config)
    judge.threshold(far)
    crops = embedder.crops([first, second])
    one, two = embedder.features(crops)
    print(judge.say(float(similarity(one, two, judge.mean)), far))
    if save:
        save.mkdir(parents=True, exist_ok=True)
        for letter, path, crop in zip("AB", (first, second), crops, strict=True):
            target = save / f"{letter}-{path.stem}.png"
            write_atomically(target, encode_image(crop, ".png"))
            print(f"crop {letter}: {target}")


def export_model(artefacts: dict[str, Artefact], source: Path | None, folder: Path, half: bool) -> None:
    """Save the last model that was verified, with the threshold, mean feature and scores of its verification.

    Args:
        artefacts: of a run up to `verify`.
        source: the model that was verified, where it is not among them.
        folder: a new one.
        half: store float16.

    Raises:
        UsageError: the folder is there, or another protocol than `sphereface` was used, whose thresholds are of other
            scores.
    """
    import torch
    from safetensors.numpy import load_file

    from sfplus.weights.loading import load_model
    from sfplus.weights.model_folder import save_model

    name = next(step for step in reversed(artefacts) if step.startswith("verify/")).removeprefix("verify/")
    network, config = load_model(artefacts[name].folder if name in artefacts else _known(source))
    features, verified = artefacts[f"embed/{name}"].folder, artefacts[f"verify/{name}"]
    result = json.loads((verified.folder / RESULT).read_text("utf-8"))
    if result["protocol"] != "sphereface":
        remedy = "export with verify.protocol=sphereface"
        raise UsageError("its thresholds are of other scores", where=f"protocol {result['protocol']}", remedy=remedy)
    table, index = read_table(verified.folder / SCORES), read_table(features / INDEX)
    row = {photo: number for number, photo in enumerate(index["photo"])}
    values = load_file(features / FEATURES)["features"]
    left, right = (values[[row[photo] for photo in table[side]]] for side in ("left", "right"))
    config |= {"verification": _about(result, verified.manifest, len(table["same"]))}
    with new_folder(folder) as part:
        save_model(part, network, config, dtype=torch.float16 if half else None)
        Judge.of_pairs(left, right, np.array(table["same"])).save(part)
    print(f"model: {folder}")


def _known(source: Path | None) -> Path:
    assert source is not None, "a verified model is either an artefact or the user's"
    return source


def _about(result: dict[str, Any], manifest: dict[str, Any], pairs: int) -> dict[str, Any]:
    """What `config.json` says of the verification: enough to tell which pairs it was."""
    return {
        "protocol": result["protocol"], "accuracy": result["mean"], "standard_error": result["standard_error"],
        "threshold": float(np.mean(result["threshold"])), "undetected": result["undetected"],
        "pairs": f"{pairs} pairs of {Path(manifest['sources']['pairs']).name}",
        "pairs_sha256": manifest["inputs"]["pairs"],
    }  # fmt: skip
