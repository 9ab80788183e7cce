"""Export of a verified model with its threshold."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.layout import FEATURE_COLUMNS, FEATURE_INDEX, SCORE_COLUMNS, SCORES, read_features, read_summary
from sfplus.errors import UsageError
from sfplus.io.console import quantity
from sfplus.io.files import atomic_folder
from sfplus.io.tables import read_parquet
from sfplus.verification.decision import DecisionRule
from sfplus.weights import CONFIG, FOLDER_FILES, PEOPLE
from sfplus.weights.convert import write_folder
from sfplus.weights.find_model import ModelSource
from sfplus.weights.loading import read_model
from sfplus.weights.model_config import read_config, write_config
from sfplus.weights.model_folder import save_model


def export_model(
    artefacts: dict[str, Artefact], source: Path | None, folder: Path, half: bool, network: str = ""
) -> None:
    """Save the last model that was verified, with the threshold, mean feature and scores of its verification.

    Args:
        artefacts: The artefacts of a run up to `verify`.
        source: The folder of the model, if the run did not train it.
        folder: The folder to create.
        half: Whether to store float16.
        network: `package.module:function` of a network of the user's own.

    Raises:
        UsageError: If the folder exists, or `measure_decision` refuses the verification.
    """
    name = _verified_model(artefacts)
    model = artefacts[name].folder if name in artefacts else source
    assert model is not None, "a verified model is an artefact or the user's"
    loaded = read_model(model, network)
    rule = measure_decision(artefacts)
    with atomic_folder(folder) as partial:
        save_model(
            partial,
            loaded.network,
            loaded.config | {"verification": rule.verification},
            dtype=torch.float16 if half else None,
        )
        rule.save(partial)


def measure_decision(artefacts: dict[str, Artefact]) -> DecisionRule:
    """Return the mean feature, the scores and the threshold of the last model that was verified.

    Args:
        artefacts: The artefacts of a run up to `verify`.

    Raises:
        UsageError: If the protocol was not `sphereface`: the thresholds of the other protocols do not apply to the
            scores of `sfplus compare`.
    """
    name = _verified_model(artefacts)
    features, verified = artefacts[f"embed/{name}"].folder, artefacts[f"verify/{name}"]
    result = read_summary(verified.folder)
    if result["protocol"] != "sphereface":
        remedy = "use verify.protocol=sphereface"
        raise UsageError(
            "its thresholds apply to different scores", where=f"protocol {result['protocol']}", remedy=remedy
        )
    table = read_parquet(verified.folder / SCORES, SCORE_COLUMNS)
    index = read_parquet(features / FEATURE_INDEX, FEATURE_COLUMNS)
    row_of = {photo: row for row, photo in enumerate(index["photo"])}
    values, _ = read_features(features)
    left, right = (values[[row_of[photo] for photo in table[side]]] for side in ("left", "right"))
    rule = DecisionRule.from_pairs(left, right, np.array(table["same"]))
    return replace(rule, verification=_describe_verification(result, verified.manifest, len(table["same"])))


def copy_model(source: ModelSource, folder: Path) -> None:
    """Copy a model into a new folder: its own folder as it is, without a threshold, or any other model converted.

    Raises:
        UsageError: If the folder exists.
        WeightsError: If the model cannot be kept in a folder.
    """
    if source.input or source.network or not source.path.is_dir():
        write_folder(source.loaded, folder)
        return
    with atomic_folder(folder) as partial:
        for name in (*FOLDER_FILES, PEOPLE):
            if (source.path / name).is_file():
                shutil.copyfile(source.path / name, partial / name)
        config = read_config(partial / CONFIG)
        config.pop("verification", None)
        write_config(partial / CONFIG, config)


def add_decision(folder: Path, rule: DecisionRule) -> None:
    """Write a threshold, with the mean feature and the scores, into a model folder; its other facts are kept.

    Whenever this is interrupted, the model has its old threshold, none, or the new one with its mean feature.

    Args:
        folder: A folder with a model.
        rule: The threshold with its mean feature.

    Raises:
        WeightsError: If the folder's config cannot be read.
    """
    config = read_config(folder / CONFIG)
    current = config.pop("verification", None)
    if current is not None and current != rule.verification:
        write_config(folder / CONFIG, config)
    rule.save(folder)
    write_config(folder / CONFIG, config | {"verification": rule.verification})


def _verified_model(artefacts: dict[str, Artefact]) -> str:
    return next(step for step in reversed(artefacts) if step.startswith("verify/")).removeprefix("verify/")


def _describe_verification(result: dict[str, Any], manifest: dict[str, Any], pairs: int) -> dict[str, Any]:
    """Return the entry of `config.json` about the verification, which identifies its pairs."""
    return {
        "protocol": result["protocol"], "accuracy": result["mean"], "standard_error": result["standard_error"],
        "threshold": float(np.mean(result["threshold"])), "undetected": result["undetected"],
        "pairs": f"{quantity(pairs, 'pair')} of {Path(manifest['sources']['pairs']).name}",
        "pairs_sha256": result["pairs_sha256"],
    }  # fmt: skip
