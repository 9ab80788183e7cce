"""Stage `report`: all that a run found, as one HTML page and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from sfplus.stages.align import CROPS
from sfplus.stages.cache import Artefact, Job, Stage
from sfplus.stages.detect import FACES, PHOTOS
from sfplus.stages.embed import FEATURES, INDEX
from sfplus.stages.tables import read_failures, read_lines, read_table
from sfplus.stages.train import HISTORY
from sfplus.stages.verify import RESULT, SCORES
from sfplus.weights import CONFIG, HEAD

if TYPE_CHECKING:
    from sfplus.datasets.pairs import Pairs
    from sfplus.hypersphere import Spread
    from sfplus.reports.html import PairCrop
    from sfplus.verification.protocols import Result

HTML, JSON, MARKDOWN = "report.html", "report.json", "report.md"
SIDES = ("left", "right")
_GALLERY, _SIDE = 4, 640  # photos shown with the face that was found, and their longer side at most
_CLASSES = 20_000  # of a larger classifier the first so many are measured: time grows with their square
_NAMES = {"train": "SphereFace", "finetune": "SphereFace+"}
_DRAWN = (
    "These are drawn faces of people who do not exist. The numbers show that the chain works; "
    "they say nothing about photos of real people. The astronaut is a real photograph: it was detected and aligned, "
    "and is in no pair."
)
_POLICIES = {
    "centre-crop": "The centre of the photo is used instead",
    "skip": "Pairs with such a photo are left out",
    "fail": "Verification stops at such a photo",
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
    titles = _titles({name: job.inputs[f"model/{name}"].folder for name in verified})
    tables = {name: read_table(artefact.folder / SCORES) for name, artefact in verified.items()}
    results = {name: _result(artefact, tables[name]) for name, artefact in verified.items()}
    pairs = {name: _pairs(tables[name], results[name]) for name in verified}
    last = list(verified)[-1]
    missed, failed = read_failures(crops.folder)
    facts = json.loads((verified[last].folder / RESULT).read_text("utf-8"))["undetected"]
    report = Report(
        title=settings.title,
        notice=_DRAWN if settings.drawn else "",
        results={titles[name]: result for name, result in results.items()},
        pairs={titles[name]: of_name for name, of_name in pairs.items()},
        protocols={
            titles[name]: _protocols(job.inputs[f"embed/{name}"], tables[name], results[name]) for name in verified
        },
        published=_published(settings, {titles[name]: job.inputs[f"model/{name}"].folder for name in verified}),
        worst=_worst(results[last], tables[last], crops),
        undetected=Undetected(_policy(facts), [row["photo"] for row in missed], faces.manifest["counts"]["photos"]),
        failures=failed,
        gallery=_gallery(job.inputs["photos"].root, faces, settings.drawn),
        histories=_histories(job.inputs, titles),
        spreads=_spreads(job.inputs, titles),
        stages=_stages(job.inputs),
        recipe=settings.recipe,
        hashes=_hashes(job.inputs, titles, verified[last]),
        versions=job.run.versions(),
        device=job.run.device_said,
        command=settings.command,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    render(report, job.folder)
    return {"models": len(results)}


def _titles(models: dict[str, Path]) -> dict[str, str]:
    """What each model is called; two of one name are told apart by their folders."""
    names = {name: _NAMES.get(name) or _model_name(folder) for name, folder in models.items()}
    shared = Counter(names.values())
    return {k: name if shared[name] == 1 else f"{name} ({models[k].parent.name})" for k, name in names.items()}


def _result(artefact: Artefact, table: dict[str, list[Any]]) -> Result:
    from sfplus.verification.protocols import Result

    facts = json.loads((artefact.folder / RESULT).read_text("utf-8"))
    return Result.from_dict(facts | {"scores": table["score"], "same": table["same"], "fold": table["fold"]})


def _pairs(table: dict[str, list[Any]], result: Result) -> Pairs:
    """The pairs that were verified, by names without extension, as lists of pairs have them."""
    from sfplus.datasets.pairs import Pairs

    left, right = (tuple(PurePosixPath(name).with_suffix("").as_posix() for name in table[side]) for side in SIDES)
    return Pairs(left, right, result.same, result.fold)


def _protocols(features: Artefact, table: dict[str, list[Any]], result: Result) -> dict[str, Result]:
    """The results of all protocols."""
    from safetensors.numpy import load_file

    from sfplus.reports.facts import by_protocol

    rows = {photo: row for row, photo in enumerate(read_table(features.folder / INDEX)["photo"])}
    values = load_file(features.folder / FEATURES)["features"]
    left, right = (values[[rows[photo] for photo in table[side]]] for side in SIDES)
    return by_protocol(left, right, result)


def _published(settings: ReportSettings, models: dict[str, Path]) -> list[dict[str, Any]]:
    """Published figures: the recipe's, then those that a model's config.json brings along."""
    rows = list(settings.published)
    for name, folder in models.items():
        config = _config(folder)
        rows += [Published.model_validate({"name": name} | row) for row in config.get("published", [])]
    return [row.model_dump() | {"accuracy": row.accuracy / 100} for row in rows]


def _spreads(inputs: Any, titles: dict[str, str]) -> dict[str, Spread]:
    """How the classifiers are spread, of the models that have one."""
    from sfplus.hypersphere import spread
    from sfplus.weights.checkpoint import load_tensors

    heads = {title: inputs[f"model/{name}"].folder / HEAD for name, title in titles.items()}
    weights = {title: load_tensors(head).get("weight") for title, head in heads.items() if head.is_file()}
    return {title: spread(weight[:_CLASSES]) for title, weight in weights.items() if weight is not None}


def _hashes(inputs: Any, titles: dict[str, str], verified: Artefact) -> dict[str, str]:
    """SHA-256 of the content of photos, pairs and models."""
    pairs = {f"pairs: {Path(verified.manifest['sources']['pairs']).name}": verified.manifest["inputs"]["pairs"]}
    models = {f"model: {title}": inputs[f"model/{name}"].content for name, title in titles.items()}
    return {f"photos: {inputs['photos'].root.name}": inputs["photos"].content} | pairs | models


def _config(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / CONFIG).read_text("utf-8")))


def _model_name(folder: Path) -> str:
    return str(_config(folder).get("name") or folder.name)


def _policy(facts: dict[str, Any]) -> str:
    text = _POLICIES[facts["policy"]]
    if facts["policy"] == "centre-crop":
        return f"{text} ({facts['centre_crops']} photos of the pairs)"
    return f"{text} ({facts['pairs_left_out']} pairs)"


def _worst(result: Result, table: dict[str, list[Any]], crops: Artefact) -> dict[str, list[PairCrop]]:
    from sfplus.reports.html import worst_crops

    crop_of = _crop_names(crops)
    return worst_crops(
        result, table["left"], table["right"], lambda name: (crops.folder / CROPS / crop_of[name]).read_bytes()
    )


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
        picture = _small(_drawn_faces(read_photo(root / photo), faces, rows))
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


def _small(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(picture)
    image.thumbnail((_SIDE, _SIDE))
    return np.asarray(image)


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


STAGE = Stage("report", 2, _build)
