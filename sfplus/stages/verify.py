"""Stage `verify`: features and a list of pairs to scores, fold accuracies and thresholds."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from sfplus.artifacts.cache import Job, Stage
from sfplus.errors import PairsError
from sfplus.io.files import write_atomically
from sfplus.io.tables import read_parquet, write_parquet
from sfplus.stages.embed import FEATURES, INDEX

if TYPE_CHECKING:
    from sfplus.datasets.pairs import Pairs
    from sfplus.verification.result import Result

SCORES, RESULT = "scores.parquet", "result.json"


class VerifySettings(BaseModel):
    """Verification over the folds of a list of pairs."""

    model_config = ConfigDict(extra="forbid")

    protocol: Literal["sphereface", "insightface", "opensphere", "exact"] = Field(
        "sphereface", description="how scores and thresholds are made; its name stands on every number"
    )
    undetected: Literal["centre-crop", "skip", "fail"] = Field(
        "centre-crop", description="what becomes of photos without a found face: cut the centre, drop their pairs, stop"
    )


def _build(job: Job) -> dict[str, Any]:
    from safetensors.numpy import load_file

    from sfplus.datasets.pairs import read_pairs
    from sfplus.verification.protocols import PROTOCOLS, protocol_summaries

    settings: VerifySettings = job.settings
    pairs = read_pairs(job.inputs["pairs"].path)
    folder = job.inputs["features"].folder
    features = load_file(folder / FEATURES)["features"]
    index = read_parquet(folder / INDEX)
    rows = _rows_by_stem(index["photo"])
    left, right = (np.array([rows.get(name, -1) for name in names]) for names in (pairs.left, pairs.right))
    there = (left >= 0) & (right >= 0)
    missing = sorted(
        {n for names, at in ((pairs.left, left), (pairs.right, right)) for n, i in zip(names, at, strict=True) if i < 0}
    )
    _apply_policy(settings.undetected, missing, job.inputs["pairs"].path)
    how = Counter(index["how"][i] for i in {*left[there].tolist(), *right[there].tolist()})
    result = PROTOCOLS[settings.protocol](
        features[left[there]], features[right[there]], pairs.same[there], pairs.fold[there], mirrored=True
    )
    every = protocol_summaries(
        features[left[there]], features[right[there]], pairs.same[there], pairs.fold[there], mirrored=True
    )
    tested = there & (pairs.fold >= 0)
    write_parquet(job.folder / SCORES, {
        "left": [index["photo"][i] for i in left[tested]], "right": [index["photo"][i] for i in right[tested]],
        "same": result.same, "fold": result.fold, "score": result.scores,
    })  # fmt: skip
    by_pair = ("scores", "same", "fold")  # they are in the table
    facts = {key: value for key, value in result.to_dict().items() if key not in by_pair} | {
        "protocols": every,
        "undetected": {
            "policy": settings.undetected, "centre_crops": how["centre-crop"],
            "photos_left_out": missing, "pairs_left_out": int((~there).sum()),
        }
    }  # fmt: skip
    write_atomically(job.folder / RESULT, json.dumps(facts, indent=1).encode())
    figure = f"{100 * result.mean:.2f} % +- {100 * result.standard_error:.2f}"
    job.run.bar.note = f"{settings.protocol} protocol, {len(result.accuracy)} folds: {figure}"
    return {"pairs": int(tested.sum()), "accuracy": result.mean, "standard_error": result.standard_error}


def read_result(folder: Path) -> tuple[Result, Pairs]:
    """What an artefact of this stage found, and the pairs that were decided, without extension as lists name them."""
    from sfplus.datasets.pairs import Pairs
    from sfplus.verification.result import Result

    table = read_parquet(folder / SCORES)
    arrays = {"scores": table["score"], "same": table["same"], "fold": table["fold"]}
    result = Result.from_dict(json.loads((folder / RESULT).read_text("utf-8")) | arrays)
    left, right = (tuple(_stem(photo) for photo in table[side]) for side in ("left", "right"))
    return result, Pairs(left, right, result.same, result.fold)


def _stem(photo: str) -> str:
    return PurePosixPath(photo).with_suffix("").as_posix()


def _rows_by_stem(photos: list[str]) -> dict[str, int]:
    """Row of each photo by its name without extension, as lists of pairs name it."""
    return {_stem(photo): row for row, photo in enumerate(photos)}


def _apply_policy(policy: str, missing: list[str], pairs: Path) -> None:
    if not missing or policy == "skip":
        return
    reason = f"{len(missing)} of its photos have no crop, the first is {missing[0]}"
    remedy = "see failures.jsonl of the detect stage, get the photos, or set verify.undetected=skip"
    raise PairsError(reason, where=pairs, remedy=remedy)


STAGE = Stage("verify", 3, _build)
