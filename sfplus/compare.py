"""Two photos, one question; and models saved with the threshold that answers it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfplus.errors import UsageError
from sfplus.images import encode_image, write_atomically
from sfplus.shipped import DEFAULT_MODEL
from sfplus.stages.cache import Artefact
from sfplus.stages.embed import FEATURES, INDEX
from sfplus.stages.tables import read_table
from sfplus.stages.verify import RESULT, SCORES
from sfplus.weights import MEAN


def similarity(first: NDArray[np.float32], second: NDArray[np.float32], mean: NDArray[np.float32]) -> float:
    """Cosine of two features (D,) after the mean feature of the verification set is taken away, in [-1, 1]."""
    a, b = np.float64(first) - mean, np.float64(second) - mean
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def compare_photos(first: Path, second: Path, model: str, save: Path | None, device: str) -> None:
    """Print the similarity of the faces of two photos and the decision at the model's threshold."""
    from safetensors.numpy import load_file

    from sfplus.embedder import Embedder

    embedder = Embedder(model or DEFAULT_MODEL, device)
    about = embedder.config.get("verification")
    if not about or not (embedder.folder / MEAN).is_file():
        raise UsageError("this model has no threshold", where=embedder.folder, remedy="make it with: sfplus export")
    crops = embedder.crops([first, second])
    one, two = embedder.features(crops)
    score = similarity(one, two, load_file(embedder.folder / MEAN)["mean"])
    threshold = about["threshold"]
    print(f"similarity {score:.3f}: {'same person' if score > threshold else 'different people'}")
    print(
        f"decided at {threshold:.3f}, the threshold of {embedder.folder.name} on {about['pairs']}, "
        f"where {100 * about['accuracy']:.2f} % of decisions are right ({about['protocol']} protocol)"
    )
    if save:
        save.mkdir(parents=True, exist_ok=True)
        for letter, path, crop in zip("AB", (first, second), crops, strict=True):
            target = save / f"{letter}-{path.stem}.png"
            write_atomically(target, encode_image(crop, ".png"))
            print(f"crop {letter}: {target}")


def export_model(artefacts: dict[str, Artefact], source: Path | None, folder: Path, half: bool) -> None:
    """Save the last model that was verified, with the threshold and the mean feature of its verification."""
    import torch
    from safetensors.numpy import load_file, save

    from sfplus.weights.checkpoint import save_model
    from sfplus.weights.sources import load_model

    name = next(step for step in reversed(artefacts) if step.startswith("verify/")).removeprefix("verify/")
    network, config = load_model(artefacts[name].folder if name in artefacts else _known(source))
    features, verified = artefacts[f"embed/{name}"].folder, artefacts[f"verify/{name}"]
    table, index = read_table(verified.folder / SCORES), read_table(features / INDEX)
    row = {photo: number for number, photo in enumerate(index["photo"])}
    used = [row[photo] for photo in table["left"] + table["right"]]
    mean = load_file(features / FEATURES)["features"][used].astype(np.float64).mean(0)
    result = json.loads((verified.folder / RESULT).read_text("utf-8"))
    config |= {"verification": _about(result, verified.manifest, len(table["same"]))}
    save_model(folder, network, config, dtype=torch.float16 if half else None)
    write_atomically(folder / MEAN, save({"mean": mean.astype(np.float32)}))
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
