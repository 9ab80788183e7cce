"""Names of the files inside artefacts, shared by the stages that write them and those that read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, with_config
from safetensors import safe_open
from typing_extensions import TypedDict

from sfplus.datasets.pairs import Pairs
from sfplus.errors import ArtefactError, explain_damage
from sfplus.io.files import file_size
from sfplus.io.json_files import read_json
from sfplus.io.tables import Column, read_parquet
from sfplus.verification.identification_rates import IdentificationData, IdentificationSummary
from sfplus.verification.result import Result

# sample
TRAIN_PHOTOS, VERIFY_PHOTOS, PAIRS = "photos/train", "photos/verify", "pairs.txt"
# detect
FACES, PHOTOS = "faces.parquet", "photos.parquet"
FACE_COLUMNS = {
    "photo": Column(str), "face": Column(int), "chosen": Column(bool), "reason": Column(str), "score": Column(float),
    "box": Column(float, 4), "landmarks": Column(float, 10),
}  # fmt: skip
PHOTO_COLUMNS = {"photo": Column(str), "height": Column(int), "width": Column(int), "choice": Column(str)}
# align
CROPS, CROP_TABLE = "crops", "crops.parquet"
CROP_COLUMNS = {"photo": Column(str), "crop": Column(str), "how": Column(str)}
# embed; the stage classify writes features in 2-D under the same name
FEATURES, FEATURE_INDEX = "features.safetensors", "index.parquet"
FEATURE_COLUMNS = {"photo": Column(str), "how": Column(str)}
NOT_MIRRORED = {"mirrored": "false"}  # metadata of features without those of mirror images
# verify, identify and classify
SCORES, RESULT = "scores.parquet", "result.json"
SCORE_COLUMNS = {
    "left": Column(str), "right": Column(str), "same": Column(bool), "fold": Column(int), "score": Column(float),
}  # fmt: skip
# report
REPORT_HTML, REPORT_JSON, REPORT_MARKDOWN = "report.html", "report.json", "report.md"
# classify and generate
CURVES, FEATURE_PLOT, SAMPLES = "curves.png", "plane.png", "samples.png"
GENERATORS, SCORE_ROWS = "generators", "scores.jsonl"


@with_config(ConfigDict(extra="allow"))
class Summary(TypedDict):
    """The content of RESULT: the chosen protocol without the scores of the pairs, and all protocols."""

    protocol: str
    mean: float
    standard_error: float
    accuracy: list[float]
    threshold: list[float]
    protocols: dict[str, dict[str, Any]]
    pairs_sha256: str
    undetected: dict[str, Any]


def photo_stem(photo: str) -> str:
    """Return the path of a photo without its extension, which is how pair lists name photos."""
    dot = photo.rfind(".")
    return photo[:dot] if photo.rfind("/") + 1 < dot < len(photo) - 1 else photo


def read_features(folder: Path) -> tuple[NDArray[np.float32], bool]:
    """Read the features of an `embed` artefact, and whether each is followed by that of the mirror image.

    Args:
        folder: The folder of the artefact.

    Returns:
        float32 (N, D), and True if the second half of each row is the feature of the mirror image.

    Raises:
        ArtefactError: If the file is missing or damaged.
    """
    path = folder / FEATURES
    with explain_damage(path, remedy=f"delete {folder} and run again", error=ArtefactError):
        file_size(path)  # a pipe is refused
        with safe_open(path, "numpy") as file:
            features, metadata = file.get_tensor("features"), file.metadata()
    if features.dtype != np.float32 or features.ndim != 2 or not np.isfinite(features).all():
        reason = f"is damaged (it holds {features.dtype} {features.shape}, not finite float32 (N, D))"
        raise ArtefactError(reason, where=path, remedy=f"delete {folder} and run again")
    return features, metadata != NOT_MIRRORED


def read_summary(folder: Path) -> dict[str, Any]:
    """Read the result of a `verify` artefact without the pairs.

    Raises:
        ArtefactError: If it is missing or damaged.
    """
    return dict(read_json(folder / RESULT, Summary, remedy=f"delete {folder} and run again"))


def read_identification(folder: Path) -> IdentificationSummary:
    """Read the rates of an `identify` artefact.

    Raises:
        ArtefactError: If they are missing or damaged.
    """
    data = read_json(folder / RESULT, IdentificationData, remedy=f"delete {folder} and run again")
    return IdentificationSummary.from_json(data)


def read_verification(folder: Path) -> tuple[Result, Pairs]:
    """Read the result of a `verify` artefact and the pairs that it decided.

    Args:
        folder: The folder of the artefact.

    Returns:
        The result, and the pairs; photos are named without their extension, unless some differ in nothing else.

    Raises:
        ArtefactError: If the table of scores is missing or damaged.
    """
    table = read_parquet(folder / SCORES, SCORE_COLUMNS)
    arrays = {"scores": table["score"], "same": table["same"], "fold": table["fold"]}
    result = Result.from_dict(read_summary(folder) | arrays)
    photos = {*table["left"], *table["right"]}
    names = {photo: photo_stem(photo) for photo in photos}
    if len(set(names.values())) < len(photos):
        names = {photo: photo for photo in photos}
    left, right = (tuple(names[photo] for photo in table[side]) for side in ("left", "right"))
    return result, Pairs(left, right, result.same, result.fold)
