"""Stage `verify`: features and a pair list to scores, fold accuracies and thresholds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.inputs import InputFile
from sfplus.artifacts.layout import FEATURE_COLUMNS, FEATURE_INDEX, RESULT, SCORES, read_features
from sfplus.artifacts.pair_inputs import locate_pairs, pairs_content
from sfplus.artifacts.stage import Job
from sfplus.errors import PairsError
from sfplus.io.console import quantity
from sfplus.io.files import write_json
from sfplus.io.tables import read_parquet, write_parquet
from sfplus.recipes.settings.verify import VerifySettings
from sfplus.verification.protocols import PROTOCOLS, protocol_summaries


def build(job: Job[VerifySettings]) -> dict[str, Any]:
    """Score the pairs, choose the thresholds and write the result of each protocol."""
    settings, pair_list = job.settings, job.input("pairs", InputFile)
    folder = job.input("features", Artefact).folder
    features, mirrored = read_features(folder)
    index = read_parquet(folder / FEATURE_INDEX, FEATURE_COLUMNS)
    pairs, (left, right) = locate_pairs(pair_list, index["photo"])
    complete = (left >= 0) & (right >= 0)
    both = zip((*pairs.left, *pairs.right), (*left, *right), strict=True)
    missing = sorted({name for name, row in both if row < 0})
    _apply_policy(settings.undetected, missing, pair_list.path)
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
        "pairs_sha256": pairs_content(pair_list.path),
        "undetected": {
            "policy": settings.undetected, "centre_crops": how["centre-crop"],
            "photos_left_out": missing, "pairs_left_out": int((~complete).sum()),
        }
    }  # fmt: skip
    write_json(job.folder / RESULT, summary, indent=1)
    figure = f"{100 * result.mean:.2f} % +- {100 * result.standard_error:.2f}"
    job.context.progress.note = f"{settings.protocol} protocol, {quantity(len(result.accuracy), 'fold')}: {figure}"
    return {"pairs": int(tested.sum()), "accuracy": result.mean, "standard_error": result.standard_error}


def _apply_policy(policy: str, missing: list[str], pair_file: Path) -> None:
    if not missing or policy == "skip":
        return
    reason = f"{len(missing)} of its photos cannot be used, the first is {missing[0]}"
    remedy = "see failures.jsonl in the folder of the cache, or leave their pairs out: --undetected skip"
    raise PairsError(reason, where=pair_file, remedy=remedy)
