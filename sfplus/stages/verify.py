"""Stage `verify`: features and a pair list to scores, fold accuracies and thresholds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.inputs import InputFile
from sfplus.artifacts.layout import FEATURE_INDEX, RESULT, SCORES, photo_stem, read_features
from sfplus.artifacts.stage import Job
from sfplus.datasets.pairs import read_pairs
from sfplus.errors import PairsError
from sfplus.io.files import write_json
from sfplus.io.tables import read_parquet, write_parquet
from sfplus.recipes.settings.verify import VerifySettings
from sfplus.verification.protocols import PROTOCOLS, protocol_summaries


def build(job: Job[VerifySettings]) -> dict[str, Any]:
    """Score the pairs, choose the thresholds and write the result of each protocol."""
    settings, pair_file = job.settings, job.input("pairs", InputFile).path
    pairs = read_pairs(pair_file)
    folder = job.input("features", Artefact).folder
    features, mirrored = read_features(folder)
    index = read_parquet(folder / FEATURE_INDEX)
    row_of = {photo_stem(photo): row for row, photo in enumerate(index["photo"])}
    left, right = (np.array([row_of.get(name, -1) for name in names]) for names in (pairs.left, pairs.right))
    complete = (left >= 0) & (right >= 0)
    missing = sorted({name for name in (*pairs.left, *pairs.right) if name not in row_of})
    _apply_policy(settings.undetected, missing, pair_file)
    sides = features[left[complete]], features[right[complete]]
    same, fold = pairs.same[complete], pairs.fold[complete]
    result = PROTOCOLS[settings.protocol](*sides, same, fold, mirrored=mirrored)
    tested = complete & (pairs.fold >= 0)
    write_parquet(job.folder / SCORES, {
        "left": [index["photo"][row] for row in left[tested]],
        "right": [index["photo"][row] for row in right[tested]],
        "same": result.same, "fold": result.fold, "score": result.scores,
    })  # fmt: skip
    how = Counter(index["how"][row] for row in {*left[complete].tolist(), *right[complete].tolist()})
    in_table = ("scores", "same", "fold")
    summary = {key: value for key, value in result.to_dict().items() if key not in in_table} | {
        "protocols": protocol_summaries(*sides, same, fold, mirrored=mirrored),
        "undetected": {
            "policy": settings.undetected, "centre_crops": how["centre-crop"],
            "photos_left_out": missing, "pairs_left_out": int((~complete).sum()),
        }
    }  # fmt: skip
    write_json(job.folder / RESULT, summary, indent=1)
    figure = f"{100 * result.mean:.2f} % +- {100 * result.standard_error:.2f}"
    job.context.progress.note = f"{settings.protocol} protocol, {len(result.accuracy)} folds: {figure}"
    return {"pairs": int(tested.sum()), "accuracy": result.mean, "standard_error": result.standard_error}


def _apply_policy(policy: str, missing: list[str], pair_file: Path) -> None:
    if not missing or policy == "skip":
        return
    reason = f"{len(missing)} of its photos have no crop, the first is {missing[0]}"
    remedy = "see failures.jsonl of the detect stage, get the photos, or set verify.undetected=skip"
    raise PairsError(reason, where=pair_file, remedy=remedy)
