"""A recipe's chain of stages: plan it, run it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from sfplus.artifacts.cache import Artefact, Stage
from sfplus.artifacts.context import Run, is_first
from sfplus.artifacts.inputs import InputFile, ModelFolder, PackFolder, Source
from sfplus.datasets.formats.pack import is_pack
from sfplus.datasets.pairs import pair_files, read_pairs
from sfplus.errors import UsageError
from sfplus.image_tasks import classify_stage as classify
from sfplus.image_tasks import generate_stage as generate
from sfplus.image_tasks.image_set import PictureSet
from sfplus.io.files import write_atomically
from sfplus.pipeline.distributed import own_part, run_stage
from sfplus.recipes.load import Recipe, VerifyKey
from sfplus.recipes.settings.classify import PicturesSettings
from sfplus.stages import align, detect, embed, report, sample, train, verify
from sfplus.weights.find_model import find_model

Settings = TypeVar("Settings", bound=BaseModel)


@dataclass(frozen=True)
class From:
    """An input that another step makes: its artefact, or one folder or file inside it."""

    step: str
    part: str = ""


@dataclass(frozen=True)
class Photos:
    """An input that is a folder of photos of the user's."""

    root: Path


@dataclass(frozen=True)
class Packed:
    """An input that is a pack of crops of the user's, made by sfplus pack."""

    root: Path


@dataclass(frozen=True)
class PairList:
    """An input that is a list of pairs of the user's: a file, two that belong together, or a folder."""

    path: Path


@dataclass(frozen=True)
class File:
    """An input that is a file of the user's."""

    path: Path


@dataclass(frozen=True)
class Pictures:
    """An input that is a set of labelled pictures."""

    settings: PicturesSettings


@dataclass(frozen=True)
class Model:
    """An input that is a trained model: a folder, or the name of one that sfplus ships."""

    name: str


Input = From | Photos | Packed | PairList | File | Pictures | Model


@dataclass(frozen=True)
class Step:
    """One stage of a chain, its settings and where its inputs come from; the name tells two uses of a stage apart."""

    name: str
    stage: Stage
    settings: BaseModel
    inputs: Mapping[str, Input] = field(default_factory=dict)


def plan(recipe: Recipe, text: str = "", command: str = "") -> list[Step]:
    """The steps of a recipe, each after those it takes from; the report shows `text` (its YAML) and `command`."""
    steps = _picture_steps(recipe)
    if recipe.sample:
        steps.append(Step("sample", sample.STAGE, recipe.sample))
    if recipe.train or recipe.finetune:
        root = next((key.photos for key in (recipe.train, recipe.finetune) if key and key.photos), None)
        crops: Input = From("align/train")
        if root and is_pack(root):
            crops = Packed(root)
        else:
            steps += crop_steps(Photos(root) if root else From("sample", sample.TRAIN), recipe, "train")
    held_out: dict[str, Input] = {}
    if recipe.verify and any(key and key.evaluate_every for key in (recipe.train, recipe.finetune)):
        photos, pairs, undetected = _verify_inputs(recipe.verify)
        steps += crop_steps(photos, recipe, "verify", undetected)
        held_out = {"held_out": From("align/verify"), "pairs": pairs}
    if recipe.train:
        settings = _pick(train.TrainSettings, recipe.train)
        inputs = {"crops": crops, **(held_out if settings.evaluate_every else {})}
        steps.append(Step("train", train.TRAIN, settings, inputs))
    if recipe.finetune:
        start = Model(recipe.finetune.model) if recipe.finetune.model else From("train")
        tune = _pick(train.FinetuneSettings, recipe.finetune)
        if recipe.train and not tune.exclude:
            tune = tune.model_copy(update={"exclude": recipe.train.exclude})
        inputs = {"crops": crops, "start": start, **(held_out if tune.evaluate_every else {})}
        steps.append(Step("finetune", train.FINETUNE, tune, inputs))
    if recipe.verify:
        steps += _verify_steps(recipe, text, command, cropped=bool(held_out))
    return steps


def _picture_steps(recipe: Recipe) -> list[Step]:
    """Of a recipe of pictures: a classifier, a generator, or a generator and the classifier that judges it."""
    steps: list[Step] = []
    if recipe.classify:
        inputs: dict[str, Input] = {"pictures": Pictures(recipe.classify.data)}
        steps.append(Step("classify", classify.STAGE, recipe.classify, inputs))
    if recipe.generate:
        inputs = {"pictures": Pictures(recipe.generate.data)}
        inputs |= {"classifier": From("classify")} if recipe.classify else {}
        inputs |= {"inception": File(recipe.generate.inception)} if recipe.generate.inception else {}
        steps.append(Step("generate", generate.STAGE, _pick(generate.GenerateSettings, recipe.generate), inputs))
    return steps


def crop_steps(photos: From | Photos, recipe: Recipe, name: str, undetected: str = "drop") -> list[Step]:
    """Detect and align one set of photos."""
    settings = align.AlignFolderSettings(**recipe.align.model_dump(), undetected=undetected)
    return [
        Step(f"detect/{name}", detect.STAGE, recipe.detect, {"photos": photos}),
        Step(f"align/{name}", align.STAGE, settings, {"photos": photos, "faces": From(f"detect/{name}")}),
    ]


def _verify_inputs(key: VerifyKey) -> tuple[From | Photos, Input, str]:
    """The photos, the pairs, and what becomes of photos without a face."""
    photos = Photos(key.photos) if key.photos else From("sample", sample.VERIFY)
    pairs = PairList(key.pairs) if key.pairs else From("sample", sample.PAIRS)
    return photos, pairs, "centre-crop" if key.undetected == "centre-crop" else "drop"


def _verify_steps(recipe: Recipe, text: str, command: str, cropped: bool) -> list[Step]:
    key = recipe.verify
    assert key is not None
    photos, pairs, undetected = _verify_inputs(key)
    steps = [] if cropped else crop_steps(photos, recipe, "verify", undetected)
    models: dict[str, Input] = {}
    if recipe.embed.model:
        models["model"] = Model(recipe.embed.model)
    else:
        models |= {"train": From("train")} if recipe.train else {}
        models |= {"finetune": From("finetune")} if recipe.finetune else {}
    shown: dict[str, Input] = {"crops": From("align/verify"), "faces": From("detect/verify"), "photos": photos}
    for model, source in models.items():
        settings = _pick(embed.EmbedSettings, recipe.embed)
        steps.append(Step(f"embed/{model}", embed.STAGE, settings, {"crops": From("align/verify"), "model": source}))
        inputs = {"features": From(f"embed/{model}"), "pairs": pairs}
        steps.append(Step(f"verify/{model}", verify.STAGE, _pick(verify.VerifySettings, key), inputs))
        shown |= {f"verify/{model}": From(f"verify/{model}"), f"model/{model}": source}
    page = report.ReportStageSettings(
        **recipe.report.model_dump(), recipe=text, command=command, drawn=recipe.sample is not None
    )
    return [*steps, Step("report", report.STAGE, page, shown)]


def closure(steps: Sequence[Step], until: str) -> list[Step]:
    """The steps of the stage `until` and all that they need.

    Raises:
        UsageError: the recipe has no such stage.
    """
    needed = {step.name for step in steps if step.stage.name == until}
    if not needed:
        names = ", ".join(dict.fromkeys(step.stage.name for step in steps))
        raise UsageError(f"this recipe has no stage '{until}'", where="--until", remedy=f"its stages: {names}")
    for step in reversed(steps):
        if step.name in needed:
            needed |= {source.step for source in step.inputs.values() if isinstance(source, From)}
    return [step for step in steps if step.name in needed]


def run_steps(steps: Sequence[Step], run: Run, record: Path | None = None) -> dict[str, Artefact]:
    """Run steps in order; `record` is the file that remembers what was run, for `status` to compare with.

    Of several processes those after the first leave out what only the first can do, and return what they took part in.
    """
    check_inputs(steps, run.workspace)
    if run.device_name != "auto":
        _ = run.device  # a missing device is an error before anything is read
    done: dict[str, Artefact] = {}
    for step in steps[: own_part([step.stage for step in steps])]:
        inputs = resolve(step, done, run)
        done[step.name] = run_stage(step.stage, step.settings, inputs, run, step.name)
        if record and is_first():
            _remember(record, step.name, step.stage.identity(step.settings, inputs))
    return done


def check_inputs(steps: Sequence[Step], workspace: Path) -> None:
    """What the user gives must be there before anything is started, not hours later."""
    for source in [source for step in steps for source in step.inputs.values()]:
        if isinstance(source, Model):
            find_model(source.name)
        elif isinstance(source, Pictures):
            data = source.settings
            own = data.name in ("files", "folder")  # which are nowhere to be had
            if not data.place.exists() and (own or not data.download):
                what, other = ("folder", "") if own else (data.name, ", or data.download=true")
                remedy = f"say where it is: data.root=FOLDER{other}"
                raise UsageError(f"there is no {what} at this path", where=data.place, remedy=remedy)
        elif not isinstance(source, From):
            path = source.root if isinstance(source, Photos | Packed) else source.path
            if not path.exists():
                raise UsageError("there is nothing at this path", where=path, remedy="check the path")
            if isinstance(source, PairList):
                read_pairs(path)
            elif path.resolve() in (workspace / "cache").resolve().parents:
                raise UsageError("holds the cache too", where=path, remedy="name the folder of photos inside it")


def publish_report(artefact: Artefact, folder: Path) -> Path:
    """Copy the report to where a person looks for it; returns the HTML file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (report.HTML, report.JSON, report.MARKDOWN):
        write_atomically(folder / name, (artefact.folder / name).read_bytes())
    return folder / report.HTML


def headline(step: str, artefact: Artefact) -> str:
    """The result of a verify step in one line."""
    counts, settings = artefact.manifest["counts"], artefact.manifest["settings"]
    accuracy = f"{100 * counts['accuracy']:.2f} % +- {100 * counts['standard_error']:.2f}"
    return f"{step}: {accuracy} ({settings['protocol']} protocol, {counts['pairs']} pairs)"


def resolve(step: Step, done: Mapping[str, Artefact], run: Run) -> dict[str, Source]:
    """The inputs of a step, those of earlier steps among what is done."""
    return {name: _source(source, done, run) for name, source in step.inputs.items()}


def _source(source: Input, done: Mapping[str, Artefact], run: Run) -> Source:
    if isinstance(source, Photos):
        return run.photo_folder(source.root)
    if isinstance(source, Packed):
        return PackFolder(source.root)
    if isinstance(source, PairList):
        return InputFile(source.path, pair_files(source.path))
    if isinstance(source, File):
        return InputFile(source.path)
    if isinstance(source, Pictures):
        return PictureSet(source.settings, run)
    if isinstance(source, Model):
        return ModelFolder(find_model(source.name))
    artefact = done[source.step]
    if not source.part:
        return artefact
    path = artefact.folder / source.part
    return run.photo_folder(path) if path.is_dir() else InputFile(path)


def recorded(record: Path) -> dict[str, Any]:
    """What was run last, by step: the file that `run_steps` keeps; nothing where there is none."""
    try:
        return dict(json.loads(record.read_text("utf-8")))
    except (OSError, ValueError):
        return {}


def _remember(record: Path, step: str, identity: dict[str, Any]) -> None:
    known = recorded(record)
    if known.get(step) != identity:
        record.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(record, json.dumps(known | {step: identity}, indent=1).encode())


def _pick(model: type[Settings], key: BaseModel) -> Settings:
    """The stage's own settings out of a recipe's key, without the paths that are inputs."""
    return model.model_validate({name: getattr(key, name) for name in model.model_fields})
