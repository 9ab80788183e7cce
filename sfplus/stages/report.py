"""Stage `report`: all that a run found, as one HTML page and as JSON."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sfplus.artifacts.cache import Artefact, Job, Stage
from sfplus.io.tables import read_failures, read_json_lines, read_parquet
from sfplus.stages.align import CROPS
from sfplus.stages.detect import FACES, PHOTOS
from sfplus.stages.verify import RESULT, SCORES, read_result
from sfplus.training.history import HISTORY
from sfplus.weights import CONFIG, HEAD

if TYPE_CHECKING:
    from sfplus.datasets.pairs import Pairs
    from sfplus.hypersphere import Uniformity
    from sfplus.reports.html import PairCrop
    from sfplus.verification.result import Result

HTML, JSON, MARKDOWN = "report.html", "report.json", "report.md"
_SIDES = ("left", "right")
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
    accuracy: float | None = Field(None, gt=1, le=100, description="per cent")
    inception_score: float | None = Field(None, ge=1, description="of a generator, instead of an accuracy")
    source: str = Field(description="where it is published")

    @model_validator(mode="after")
    def _one(self) -> Published:
        if (self.accuracy is None) is (self.inception_score is None):
            raise ValueError("a published figure is an accuracy or an inception_score")
        return self

    @property
    def figure(self) -> tuple[str, float]:
        """Which metric it is, and its value; an accuracy is a share."""
        if self.accuracy is not None:
            return "accuracy", self.accuracy / 100
        return "inception_score", self.inception_score or 0.0


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


@dataclass(frozen=True)
class _Model:
    """A verified model.

    Attributes:
        folder: where it lies.
        content: its digest.
        verified: what the verify stage found.
        table: the scores.
        result: of the verification.
        pairs: that were decided.
    """

    folder: Path
    content: str
    verified: Artefact
    table: dict[str, list[Any]]
    result: Result
    pairs: Pairs

    @classmethod
    def of(cls, inputs: Mapping[str, Any], name: str) -> _Model:
        """The model that was verified as `name`."""
        model, verified = inputs[f"model/{name}"], inputs[f"verify/{name}"]
        result, pairs = read_result(verified.folder)
        return cls(model.folder, model.content, verified, read_parquet(verified.folder / SCORES), result, pairs)

    @property
    def config(self) -> dict[str, Any]:
        """What its config.json says."""
        return dict(json.loads((self.folder / CONFIG).read_text("utf-8")))


def _build(job: Job) -> dict[str, Any]:
    from sfplus.reports.html import Report, Undetected, render

    settings: ReportStageSettings = job.settings
    crops, faces = job.inputs["crops"], job.inputs["faces"]
    models = _models(job.inputs)
    last = list(models.values())[-1]
    missed, failed = read_failures(crops.folder)
    report = Report(
        title=settings.title,
        notice=_DRAWN if settings.drawn else "",
        results={title: model.result for title, model in models.items()},
        pairs={title: model.pairs for title, model in models.items()},
        protocols={title: _facts(model.verified)["protocols"] for title, model in models.items()},
        published=_published(settings, models),
        worst=_worst(last, crops),
        undetected=Undetected(
            _policy(_facts(last.verified)["undetected"]),
            [row["photo"] for row in missed],
            faces.manifest["counts"]["photos"],
        ),
        failures=failed,
        gallery=_gallery(job.inputs["photos"].root, faces, settings.drawn),
        histories=_histories(models),
        spreads=_spreads(models),
        stages=_stages(job.inputs),
        recipe=settings.recipe,
        hashes=_hashes(job.inputs["photos"], last.verified, models),
        versions=job.run.versions(),
        device=job.run.device_said,
        command=settings.command,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    render(report, job.folder)
    return {"models": len(models)}


def _models(inputs: Mapping[str, Any]) -> dict[str, _Model]:
    """The verified models by what they are called; two of one name are told apart by their folders."""
    names = [name.removeprefix("verify/") for name in inputs if name.startswith("verify/")]
    models = {name: _Model.of(inputs, name) for name in names}
    titles = {k: _NAMES.get(k) or str(model.config.get("name") or model.folder.name) for k, model in models.items()}
    shared = Counter(titles.values())
    return {
        titles[name] if shared[titles[name]] == 1 else f"{titles[name]} ({model.folder})": model
        for name, model in models.items()
    }


def _facts(verified: Artefact) -> dict[str, Any]:
    return dict(json.loads((verified.folder / RESULT).read_text("utf-8")))


def _published(settings: ReportSettings, models: Mapping[str, _Model]) -> list[dict[str, Any]]:
    """Published figures: the recipe's, then those of LFW that the zoo or a model's own config.json knows."""
    from sfplus.io.resources import shipped_folder
    from sfplus.weights.zoo import zoo

    rows = [*settings.published]
    for title, model in models.items():
        said: Any = model.config.get("published")
        if model.folder.resolve().parent == shipped_folder("pretrained").resolve() and model.folder.name in zoo():
            said = zoo()[model.folder.name].model_dump()
        with contextlib.suppress(KeyError, TypeError, ValueError):  # it is anybody's
            runs = f", the mean of {len(said['runs'])} runs is {np.mean(said['runs']):.2f}" * (len(said["runs"]) > 1)
            source = f"{said['source']} ({said['protocol']} protocol{runs})"
            rows.append(Published(name=f"{title} on LFW", accuracy=said["lfw"], source=source))
    return [{"name": row.name, "accuracy": row.accuracy / 100, "source": row.source} for row in rows if row.accuracy]


def _spreads(models: Mapping[str, _Model]) -> dict[str, Uniformity]:
    """How the classifiers are spread, of the models that have one."""
    from sfplus.hypersphere import measure_uniformity
    from sfplus.weights.model_folder import load_tensors

    heads = {title: model.folder / HEAD for title, model in models.items()}
    weights = {title: load_tensors(head).get("weight") for title, head in heads.items() if head.is_file()}
    return {
        title: measure_uniformity(weight[:_CLASSES].float()) for title, weight in weights.items() if weight is not None
    }


def _hashes(photos: Any, verified: Artefact, models: Mapping[str, _Model]) -> dict[str, str]:
    """SHA-256 of the content of photos, pairs and models."""
    pairs = {f"pairs: {Path(verified.manifest['sources']['pairs']).name}": verified.manifest["inputs"]["pairs"]}
    return (
        {f"photos: {photos.root.name}": photos.content} | pairs | {f"model: {k}": m.content for k, m in models.items()}
    )


def _policy(facts: dict[str, Any]) -> str:
    text = _POLICIES[facts["policy"]]
    if facts["policy"] == "centre-crop":
        return f"{text} ({facts['centre_crops']} photos of the pairs)"
    return f"{text} ({facts['pairs_left_out']} pairs)"


def _worst(model: _Model, crops: Artefact) -> dict[str, list[PairCrop]]:
    from sfplus.reports.html import worst_crops

    crop_of = _crop_names(crops)
    left, right = (model.table[side] for side in _SIDES)
    return worst_crops(model.result, left, right, lambda name: (crops.folder / CROPS / crop_of[name]).read_bytes())


def _crop_names(crops: Artefact) -> dict[str, str]:
    from sfplus.stages.align import TABLE

    table = read_parquet(crops.folder / TABLE)
    return dict(zip(table["photo"], table["crop"], strict=True))


def _gallery(root: Path, detected: Artefact, drawn: bool) -> list[tuple[str, bytes]]:
    """A few photos, evenly over the set, with their faces drawn in; and the real photograph of the demo."""
    from sfplus.images import encode_image, read_photo

    photos = read_parquet(detected.folder / PHOTOS)["photo"]
    faces = read_parquet(detected.folder / FACES)
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


def _histories(models: Mapping[str, _Model]) -> dict[str, list[dict[str, Any]]]:
    files = {title: model.folder / HISTORY for title, model in models.items()}
    return {title: read_json_lines(file) for title, file in files.items() if file.is_file()}


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
