"""Stage `report`: the results of a run as one HTML page, as JSON and as Markdown."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.inputs import ModelInput, PhotoFolder, StageInput
from sfplus.artifacts.layout import (
    CROP_COLUMNS,
    CROP_TABLE,
    CROPS,
    FACE_COLUMNS,
    FACES,
    PHOTO_COLUMNS,
    PHOTOS,
    SCORE_COLUMNS,
    SCORES,
    read_identification,
    read_summary,
    read_verification,
)
from sfplus.artifacts.model_facts import ModelFacts, name_models
from sfplus.artifacts.pair_inputs import BinCrops
from sfplus.artifacts.stage import Job
from sfplus.datasets.pairs import Pairs
from sfplus.datasets.pairs.dataset_name import LFW
from sfplus.detection import Faces
from sfplus.hypersphere import Uniformity
from sfplus.images import Pixels, encode_image, read_photo
from sfplus.io.console import quantity
from sfplus.io.resources import shipped_folder
from sfplus.io.tables import read_failures, read_json_lines, read_parquet
from sfplus.recipes.recipe import Recipe
from sfplus.recipes.settings.report import PublishedSettings, ReportStageSettings
from sfplus.reports.html import PairCrop, Report, Undetected, render, worst_crops
from sfplus.training.history import HISTORY, HistoryRow
from sfplus.verification.result import Result
from sfplus.weights.classifier import classifier_uniformity
from sfplus.weights.zoo import zoo

_GALLERY, _SIDE = 4, 640  # photos that are shown with their faces, and their longer side in pixels
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


_LEFT_OUT = "They are left out: neither searched nor in the gallery."


@dataclass(frozen=True)
class _Model:
    """A model of the report.

    Attributes:
        facts: Head, energy and start of the model.
        folder: The folder or file of the model; of a function, its name.
    """

    facts: ModelFacts
    folder: Path


@dataclass(frozen=True)
class _Verified:
    """The verification of a model.

    Attributes:
        artefact: The artefact of the verify stage.
        table: The scores of the pairs.
        result: The result of the verification.
        pairs: The pairs that were decided.
    """

    artefact: Artefact
    table: dict[str, list[Any]]
    result: Result
    pairs: Pairs

    @classmethod
    def load(cls, artefact: Artefact) -> _Verified:
        """Load the result of a verification."""
        return cls(artefact, read_parquet(artefact.folder / SCORES, SCORE_COLUMNS), *read_verification(artefact.folder))


def build(job: Job[ReportStageSettings]) -> dict[str, Any]:
    """Write the report of all models that were verified or identified with."""
    settings, photos = job.settings, job.input("photos", PhotoFolder)
    crops, faces = job.inputs.get("crops"), job.inputs.get("faces")  # none if the photos are crops already
    assert isinstance(crops, Artefact | None) and isinstance(faces, Artefact | None)
    models, verified, identified = _load_models(job.inputs)
    last = list(verified.values())[-1] if verified else None
    missed, failed = read_failures(crops.folder) if crops else ([], [])
    policy = _describe_policy(_read_result(last.artefact)["undetected"]) if last else _LEFT_OUT
    report = Report(
        title=settings.title or f"{'Verification' if verified else 'Identification'} on {settings.dataset}",
        dataset=settings.dataset,
        models={title: model.facts for title, model in models.items()},
        notice=_DRAWN if settings.drawn else "",
        results={title: part.result for title, part in verified.items()},
        pairs={title: part.pairs for title, part in verified.items()},
        protocols={title: _read_result(part.artefact)["protocols"] for title, part in verified.items()},
        identification={title: read_identification(artefact.folder) for title, artefact in identified.items()},
        published=_published_rows(settings, models) if verified else [],
        worst=_worst_pairs(last, crops or photos) if last else {},
        undetected=Undetected(policy, [row["photo"] for row in missed], faces.manifest["counts"]["photos"])
        if faces
        else None,
        failures=failed,
        gallery=_gallery(photos.root, faces, settings.drawn) if faces else [],
        histories=_histories(models),
        spreads=_classifier_uniformity(models),
        stages=_stage_rows(job.inputs),
        recipe=settings.recipe,
        hashes=_hashes(job.inputs, last, models),
        versions=job.context.versions(),
        device=job.context.device_description,
        command=settings.command,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    render(report, job.folder)
    return {"models": len(models)}


def _load_models(
    inputs: Mapping[str, StageInput],
) -> tuple[dict[str, _Model], dict[str, _Verified], dict[str, Artefact]]:
    """Load the models, their verifications, and the artefacts of identifications, by name (see `name_models`)."""
    inputs_by_name = {name.removeprefix("model/"): value for name, value in inputs.items() if name.startswith("model/")}
    models = {}
    for key, model in inputs_by_name.items():
        assert isinstance(model, Artefact | ModelInput)
        models[key] = _Model(ModelFacts.read(model), model.folder)
    names = name_models({key: model.facts for key, model in models.items()})
    verified, identified = (
        {title: done for key, title in names.items() if isinstance(done := inputs.get(f"{stage}/{key}"), Artefact)}
        for stage in ("verify", "identify")
    )
    return (
        {names[key]: model for key, model in models.items()},
        {title: _Verified.load(artefact) for title, artefact in verified.items()},
        identified,
    )


def _read_result(verified: Artefact) -> dict[str, Any]:
    return read_summary(verified.folder)


def _published_rows(settings: ReportStageSettings, models: Mapping[str, _Model]) -> list[dict[str, Any]]:
    """Return the published figures on these pairs: of the recipe, and on LFW of the zoo or a model's config.json."""
    rows = [row for row in settings.published if row.dataset in (None, settings.dataset)]
    for title, model in models.items() if settings.dataset == LFW else ():
        folder = model.folder
        published: Any = model.facts.config.get("published")
        if folder.resolve().parent == shipped_folder("pretrained").resolve() and folder.name in zoo():
            published = zoo()[folder.name].model_dump()
        with contextlib.suppress(KeyError, TypeError, ValueError):  # a config.json of anybody's may hold anything
            runs = published["runs"]
            mean = f", the mean of {len(runs)} runs is {np.mean(runs):.2f}" * (len(runs) > 1)
            source = f"{published['source']} ({published['protocol']} protocol{mean})"
            rows.append(PublishedSettings(name=title, accuracy=published["lfw"], source=source))
    return [{"name": row.name, "accuracy": row.accuracy / 100, "source": row.source} for row in rows if row.accuracy]


def _classifier_uniformity(models: Mapping[str, _Model]) -> dict[str, Uniformity]:
    """Measure the distribution of the classifiers on the sphere, of the models that have one."""
    measured = {title: classifier_uniformity(model.folder) for title, model in models.items()}
    return {title: uniformity for title, uniformity in measured.items() if uniformity}


def _hashes(
    inputs: Mapping[str, StageInput], verified: _Verified | None, models: Mapping[str, _Model]
) -> dict[str, str]:
    """Return the SHA-256 of the content of photos, pairs and models."""
    hashes = {}
    for key, photos in inputs.items():
        if isinstance(photos, PhotoFolder):
            label = key.replace("/", " of ")  # photos, photos of identify, photos of distractors-1
            path = photos.path if isinstance(photos, BinCrops) else photos.root
            hashes[f"{label}: {path.name}"] = photos.content
    if verified:
        manifest = verified.artefact.manifest
        hashes[f"pairs: {Path(manifest['sources']['pairs']).name}"] = _read_result(verified.artefact)["pairs_sha256"]
    return hashes | {f"model: {title}": model.facts.content for title, model in models.items()}


def _describe_policy(undetected: Mapping[str, Any]) -> str:
    text = _POLICIES[undetected["policy"]]
    if undetected["policy"] == "centre-crop":
        return f"{text} ({quantity(undetected['centre_crops'], 'photo')} of the pairs)"
    return f"{text} ({quantity(undetected['pairs_left_out'], 'pair')})"


def _worst_pairs(model: _Verified, crops: Artefact | PhotoFolder) -> dict[str, list[PairCrop]]:
    if isinstance(crops, PhotoFolder):
        path_of = {name: crops.root / name for name in crops.photos}
    else:
        table = read_parquet(crops.folder / CROP_TABLE, CROP_COLUMNS)
        path_of = {
            photo: crops.folder / CROPS / crop for photo, crop in zip(table["photo"], table["crop"], strict=True)
        }
    left, right = model.table["left"], model.table["right"]
    return worst_crops(model.result, left, right, lambda name: _read_for_browser(path_of[name]))


def _read_for_browser(crop: Path) -> bytes:
    is_shown = crop.suffix.lower() in (".jpg", ".jpeg", ".png")
    return crop.read_bytes() if is_shown else encode_image(read_photo(crop), ".png")


def _gallery(root: Path, detected: Artefact, drawn: bool) -> list[tuple[str, bytes]]:
    """Return a few photos, evenly spaced over the set, with their faces, and the real photograph of the demo."""
    photos = read_parquet(detected.folder / PHOTOS, PHOTO_COLUMNS)["photo"]
    faces = read_parquet(detected.folder / FACES, FACE_COLUMNS)
    real = [photo for photo in photos if drawn and photo.startswith("astronaut/")]
    rest = [photo for photo in photos if photo not in real]
    chosen = [rest[i] for i in np.linspace(0, len(rest) - 1, min(_GALLERY, len(rest))).astype(int)] + real
    gallery = []
    for photo in chosen:
        rows = [i for i, name in enumerate(faces["photo"]) if name == photo]
        image = _thumbnail(_draw_faces(read_photo(root / photo), faces, rows))
        scores = ", ".join(f"{faces['score'][i]:.3f}" for i in rows)
        caption = f"{photo}: {len(rows)} face{'s' * (len(rows) != 1)} {scores}".rstrip()
        gallery.append((caption, encode_image(image, ".jpg", 85)))
    return gallery


def _draw_faces(photo: Pixels, table: dict[str, list[Any]], rows: list[int]) -> Pixels:
    if not rows:
        return photo
    columns = {key: np.array([table[key][i] for i in rows], np.float32) for key in ("box", "score", "landmarks")}
    return Faces(columns["box"], columns["score"], columns["landmarks"].reshape(-1, 5, 2)).draw(photo)


def _thumbnail(photo: Pixels) -> Pixels:
    image = Image.fromarray(photo)
    image.thumbnail((_SIDE, _SIDE))
    return np.asarray(image)


def _histories(models: Mapping[str, _Model]) -> dict[str, list[HistoryRow]]:
    files = {title: model.folder / HISTORY for title, model in models.items()}
    return {
        title: read_json_lines(file, HistoryRow, remedy="delete this file, or get the model again")
        for title, file in files.items()
        if file.is_file()
    }


def _stage_rows(inputs: Mapping[str, StageInput]) -> list[dict[str, Any]]:
    """Return a row for each artefact that the report was made from, in the order of the recipe's keys."""
    order = list(Recipe.model_fields)
    artefacts = [(name, value.manifest) for name, value in inputs.items() if isinstance(value, Artefact)]
    return [
        {
            "stage": {"crops": "align", "faces": "detect"}.get(name, name.removeprefix("model/")), "state": "done",
            "seconds": manifest["seconds"], "device": manifest["device"], "counts": manifest["counts"],
            "fingerprint": manifest["fingerprint"],
        }
        for name, manifest in sorted(artefacts, key=lambda named: order.index(named[1]["stage"]))
    ]  # fmt: skip
