"""Typed recipes: YAML in, validated settings out; an unknown key is an error with its line and the nearest key."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sfplus.errors import RecipeError, UsageError
from sfplus.image_tasks.classify_stage import ClassifySettings
from sfplus.image_tasks.generate_stage import GenerateSettings
from sfplus.io.resources import shipped_folder
from sfplus.recipes.validation_errors import explain, nearest
from sfplus.stages.align import AlignSettings
from sfplus.stages.detect import DetectSettings
from sfplus.stages.embed import EmbedSettings
from sfplus.stages.report import ReportSettings
from sfplus.stages.sample import SampleSettings
from sfplus.stages.train import FinetuneSettings, TrainSettings
from sfplus.stages.verify import VerifySettings

PICTURES = ("classify", "generate")  # the stages that are not about faces
_STAGES = ("sample", "train", "finetune", "verify", *PICTURES)  # the others run only for these
_NO_FACES = (*PICTURES, "report", "small")


class TrainKey(TrainSettings):
    """The key `train` of a recipe."""

    photos: Path | None = Field(
        None,
        description="a folder per person, or a pack of crops (sfplus pack); left out where the recipe draws its sample",
    )


class FinetuneKey(FinetuneSettings):
    """The key `finetune` of a recipe."""

    model: str | None = Field(None, description="the model to start from; left out where the recipe trains one")
    photos: Path | None = Field(
        None, description="a folder per person, or a pack of crops; left out where the key train says it"
    )


class EmbedKey(EmbedSettings):
    """The key `embed` of a recipe."""

    model: str | None = Field(None, description="the model to verify; left out where the recipe trains one")


class VerifyKey(VerifySettings):
    """The key `verify` of a recipe."""

    photos: Path | None = Field(None, description="the photos that the pairs name; left out with a drawn sample")
    pairs: Path | None = Field(None, description="the list of pairs (LFW's pairs.txt); left out with a drawn sample")


class GenerateKey(GenerateSettings):
    """The key `generate` of a recipe; a key `classify` beside it trains the judge of its surrogate score."""

    inception: Path | None = Field(None, description="torch-fidelity's weights, for Inception score and FID")


class Recipe(BaseModel):
    """A whole chain, of faces or of pictures; its keys are the stages in the order in which they run.

    What a stage takes from another is implied by the chain: it is never a path into the cache.
    """

    model_config = ConfigDict(extra="forbid")

    sample: SampleSettings | None = None
    detect: DetectSettings = DetectSettings()
    align: AlignSettings = AlignSettings()
    train: TrainKey | None = None
    finetune: FinetuneKey | None = None
    embed: EmbedKey = EmbedKey()
    verify: VerifyKey | None = None
    classify: ClassifySettings | None = None
    generate: GenerateKey | None = None
    report: ReportSettings = ReportSettings()
    small: dict[str, Any] | None = Field(None, description="keys and values of the smallest run that means something")

    @model_validator(mode="after")
    def _chain_holds(self) -> Recipe:
        faces = [name for name in type(self).model_fields if name in self.model_fields_set and name not in _NO_FACES]
        if faces and (self.classify or self.generate):
            raise ValueError(f"{faces[0]} is of faces, classify and generate are of pictures: write two recipes")
        if (self.train or self.finetune) and self.align.template not in ("sphereface-112x96", "arcface-112x112"):
            raise ValueError("align.template: networks are trained on sphereface-112x96 or arcface-112x112 crops")
        keys = [key for key in (self.train, self.finetune) if key]
        if keys and not (self.sample or any(key.photos for key in keys)):
            raise ValueError("train.photos is missing: say which folder holds the training photos")
        if self.train and self.finetune and self.finetune.photos:
            raise ValueError("finetune.photos is only for recipes without train: fine-tuning takes the same photos")
        if self.verify and not ((self.verify.photos and self.verify.pairs) or self.sample):
            raise ValueError("verify.photos or verify.pairs is missing: say where the photos and their pair list are")
        if self.finetune and not (self.train or self.finetune.model):
            raise ValueError("finetune.model is missing: say which model to start from, or add a train stage")
        if self.verify and not (self.train or self.finetune or self.embed.model):
            raise ValueError("embed.model is missing: say which model to verify, or add a train stage")
        if any(key.evaluate_every for key in keys) and not self.verify:
            raise ValueError(
                "evaluate_every is missing its pairs: add a verify stage, whose pairs are the held-out ones"
            )
        return self


def recipe_names() -> list[str]:
    """The recipes that sfplus ships."""
    return sorted(path.stem for path in shipped_folder("pipelines").glob("*.yaml"))


def find_recipe(name: str) -> Path:
    """The file of a recipe, given by its shipped name or by a path.

    Raises:
        RecipeError: there is none.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if path.is_file():
            return path
        raise RecipeError("there is no such recipe file", where=name, remedy="see: sfplus recipes list")
    path = shipped_folder("pipelines") / f"{name}.yaml"
    if not path.is_file():
        near = nearest(name, recipe_names())
        raise RecipeError(f"no recipe is called '{name}'", remedy=near or "see: sfplus recipes list")
    return path


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: the YAML file.
        overrides: `key.key=value`, the value in YAML, applied before validation. In a recipe of pictures a key that
            is no stage is one of its last stage, and `data` of all.

    Raises:
        RecipeError: with `file:line` of the first fault, or the override that is wrong; or there is no stage.
    """
    try:
        text = path.read_text("utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text) or {}
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(f"is not YAML: {error.problem}", where=f"{path}:{line}", remedy="mend this line") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"cannot be read ({error})", where=path, remedy="check the file") from error
    if not isinstance(data, dict):
        raise RecipeError(
            "is no recipe: it must hold stages as keys", where=f"{path}:1", remedy="see: sfplus recipes show demo"
        )
    try:
        _refuse_twins(node, path)
    except RecursionError:
        raise RecipeError("holds itself", where=f"{path}:1", remedy="remove the anchor") from None
    overrides = [whole for override in overrides for whole in _in_stages(data, override)]
    for override in overrides:
        _override(data, override)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise explain(error, Recipe, node, data, path, overrides) from None
    if not any(getattr(recipe, stage) for stage in _STAGES):
        raise RecipeError("has no stage to run", where=path, remedy="see: sfplus recipes show demo")
    return recipe


def about_faces(path: Path) -> bool:
    """Whether a recipe is about faces; it need not be right."""
    return not set(PICTURES) & set(yaml.safe_load(path.read_text("utf-8")))


def small_settings(path: Path) -> list[str]:
    """The overrides that make a recipe small.

    Raises:
        UsageError: it knows none.
    """
    small = load_recipe(path).small
    if small is None:
        raise UsageError("this recipe has no smaller size", where=path, remedy="leave --small out")
    return [f"{key}={json.dumps(value)}" for key, value in small.items()]


def header(path: Path) -> str:
    """The first sentence of the comment that opens a recipe."""
    lines = [line.removeprefix("#").strip() for line in path.read_text("utf-8").splitlines() if line.startswith("#")]
    return lines[0] if lines else ""


def _in_stages(data: dict[str, Any], override: str) -> list[str]:
    """An override with the stages that it is for, where it is a recipe of pictures and names none."""
    key = override.partition("=")[0].split(".")[0]
    stages = [stage for stage in PICTURES if stage in data]
    if key in Recipe.model_fields or not stages:
        return [override]
    return [f"{stage}.{override}" for stage in (stages if key == "data" else stages[-1:])]


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecipeError("is not of the form key=value", where=override, remedy="for example: finetune.energy.power=0")
    *parents, last = key.split(".")
    for parent in parents:
        child = data.get(parent)
        if not isinstance(child, dict | None):
            raise RecipeError(f"'{parent}' holds a value, no keys", where=override, remedy="check the key")
        data[parent] = dict(child or {})  # of its own: with YAML's aliases several keys share one
        data = data[parent]
    try:
        data[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError("the value is not YAML", where=override, remedy="put it in quotes") from error


def _refuse_twins(node: yaml.Node | None, path: Path) -> None:
    """YAML lets a key stand twice and keeps the last one; that is never meant."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if key.value in seen:
            raise RecipeError(
                f"the key '{key.value}' stands twice", where=f"{path}:{key.start_mark.line + 1}", remedy="remove one"
            )
        seen.add(key.value)
        _refuse_twins(value, path)
