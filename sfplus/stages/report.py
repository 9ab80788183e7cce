"""Stage `report`: all that a run found, as one HTML page and as JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from sfplus.stages.align import CROPS
from sfplus.stages.cache import Artefact, Job, Stage
from sfplus.stages.detect import FACES, PHOTOS
from sfplus.stages.tables import read_failures, read_lines, read_table
from sfplus.stages.train import HISTORY
from sfplus.stages.verify import RESULT, SCORES

HTML, JSON = "report.html", "report.json"
_WORST = 12  # false accepts shown, and as many false rejects
_GALLERY = 4  # photos shown with the face that was found
_NAMES = {"train": "SphereFace", "finetune": "SphereFace+"}
_DRAWN = (
    "These are drawn faces of people who do not exist. The numbers show that the chain works; "
    "they say nothing about photos of real people. The astronaut is a real photograph: it was detected and aligned, "
    "and is in no pair."
)
_POLICIES = {
    "centre-crop": "the centre of the photo is used instead",
    "skip": "pairs with such a photo are left out",
    "fail": "verification stops at such a photo",
}


class Published(BaseModel):
    """A published figure, shown beside ours and marked as published."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="the model")
    accuracy: float = Field(gt=1, le=100, description="per cent")
    source: str = Field(description="where it is published")


class ReportSettings(BaseModel):
    """The page's title and what stands beside our figures."""

    model_config = ConfigDict(extra="forbid")

    title: str = Field("Face verification", description="heading of the page")
    published: list[Published] = Field([], description="published figures of the same model and data")


class ReportStageSettings(ReportSettings):
    """What the chain knows besides."""

    recipe: str = ""
    command: str = ""
    drawn: bool = False


def _build(job: Job) -> dict[str, Any]:
    from sfplus.reports.html import Report, Undetected, render

    settings: ReportStageSettings = job.settings
    crops, faces = job.inputs["crops"], job.inputs["faces"]
    verified = {
        name.removeprefix("verify/"): source for name, source in job.inputs.items() if name.startswith("verify/")
    }
    titles = {name: _NAMES.get(name) or _model_name(job.inputs[f"model/{name}"].folder) for name in verified}
    results = {titles[name]: _result(artefact) for name, artefact in verified.items()}
    last = list(verified)[-1]
    missed, failed = read_failures(crops.folder)
    facts = json.loads((verified[last].folder / RESULT).read_text("utf-8"))["undetected"]
    report = Report(
        title=settings.title,
        notice=_DRAWN if settings.drawn else "",
        results=results,
        published=[row.model_dump() | {"accuracy": row.accuracy / 100} for row in settings.published],
        worst=_worst(verified[last], results[titles[last]], crops),
        undetected=Undetected(_policy(facts), [row["photo"] for row in missed], faces.manifest["counts"]["photos"]),
        failures=failed,
        gallery=_gallery(job.inputs["photos"].root, faces, settings.drawn),
        histories=_histories(job.inputs, titles),
        stages=_stages(job.inputs),
        recipe=settings.recipe,
        versions=job.run.versions(),
        device=job.run.device_said,
        command=settings.command,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    render(report, job.folder)
    return {"models": len(results)}


def _result(artefact: Artefact) -> Any:
    from sfplus.verification.protocols import Result

    table = read_table(artefact.folder / SCORES)
    facts = json.loads((artefact.folder / RESULT).read_text("utf-8"))
    return Result.from_dict(facts | {"scores": table["score"], "same": table["same"], "fold": table["fold"]})


def _model_name(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return str(config.get("name") or folder.name)


def _policy(facts: dict[str, Any]) -> str:
    text = _POLICIES[facts["policy"]]
    if facts["policy"] == "centre-crop":
        return f"{text} ({facts['centre_crops']} photos of the pairs)"
    return f"{text} ({facts['pairs_left_out']} pairs)"


def _worst(verified: Artefact, result: Any, crops: Artefact) -> dict[str, list[Any]]:
    from sfplus.datasets.pairs import Pairs
    from sfplus.reports.html import PairCrop, worst_pairs

    table = read_table(verified.folder / SCORES)
    crop_of = _crop_names(crops)
    pairs = Pairs(tuple(table["left"]), tuple(table["right"]), result.same, result.fold)

    def pair(i: int) -> PairCrop:
        left, right = table["left"][i], table["right"][i]
        one, two = ((crops.folder / CROPS / crop_of[name]).read_bytes() for name in (left, right))
        fold = int(result.fold[i])
        return PairCrop(left, right, one, two, float(result.scores[i]), fold, float(result.threshold[fold]))

    accepts, rejects = worst_pairs(result, pairs, _WORST)
    return {"false_accepts": [pair(i) for i in accepts], "false_rejects": [pair(i) for i in rejects]}


def _crop_names(crops: Artefact) -> dict[str, str]:
    from sfplus.stages.align import TABLE

    table = read_table(crops.folder / TABLE)
    return dict(zip(table["photo"], table["crop"], strict=True))


def _gallery(root: Path, detected: Artefact, drawn: bool) -> list[tuple[str, bytes]]:
    """A few photos, evenly over the set, with their faces drawn in; and the real photograph of the demo."""
    from sfplus.images import encode_image, read_photo

    photos = read_table(detected.folder / PHOTOS)["photo"]
    faces = read_table(detected.folder / FACES)
    real = [photo for photo in photos if drawn and photo.startswith("astronaut/")]
    others = [photo for photo in photos if photo not in real]
    chosen = [others[i] for i in np.linspace(0, len(others) - 1, min(_GALLERY, len(others))).astype(int)] + real
    gallery = []
    for photo in chosen:
        rows = [i for i, name in enumerate(faces["photo"]) if name == photo]
        picture = _drawn_faces(read_photo(root / photo), faces, rows)
        scores = ", ".join(f"{faces['score'][i]:.3f}" for i in rows)
        gallery.append(
            (f"{photo}: {len(rows)} face{'s' * (len(rows) != 1)} {scores}".rstrip(), encode_image(picture, ".jpg", 85))
        )
    return gallery


def _drawn_faces(photo: NDArray[np.uint8], table: dict[str, list[Any]], rows: list[int]) -> NDArray[np.uint8]:
    from sfplus.detection import Faces

    if not rows:
        return photo
    columns = {key: np.array([table[key][i] for i in rows], np.float32) for key in ("box", "score", "landmarks")}
    return Faces(columns["box"], columns["score"], columns["landmarks"].reshape(-1, 5, 2)).draw(photo)


def _histories(inputs: Any, titles: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    return {
        title: read_lines(inputs[f"model/{name}"].folder / HISTORY)
        for name, title in titles.items()
        if (inputs[f"model/{name}"].folder / HISTORY).is_file()
    }


def _stages(inputs: Any) -> list[dict[str, Any]]:
    """One row for each artefact that the report was made from, in the order in which they were made."""
    rows = []
    for name, source in inputs.items():
        if isinstance(source, Artefact):
            m = source.manifest
            label = {"crops": "align", "faces": "detect"}.get(name, name.removeprefix("model/"))
            rows.append({
                "stage": label, "state": "done", "seconds": m["seconds"], "device": m["device"],
                "counts": m["counts"], "fingerprint": m["fingerprint"],
            })  # fmt: skip
    order = ["detect", "align", "train", "finetune"]
    return sorted(rows, key=lambda row: order.index(row["stage"]) if row["stage"] in order else len(order))


STAGE = Stage("report", 1, _build)
