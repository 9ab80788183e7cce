"""The recipe: the keys of its YAML file, in the order in which their stages run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sfplus.alignment.templates import TEMPLATES
from sfplus.recipes.settings.align import AlignSettings
from sfplus.recipes.settings.classify import ClassifySettings
from sfplus.recipes.settings.detect import DetectSettings
from sfplus.recipes.settings.embed import EmbedSettings
from sfplus.recipes.settings.finetune import FinetuneSettings
from sfplus.recipes.settings.generate import GenerateSettings
from sfplus.recipes.settings.identify import IdentifySettings
from sfplus.recipes.settings.report import ReportSettings
from sfplus.recipes.settings.sample import SampleSettings
from sfplus.recipes.settings.train import TrainSettings
from sfplus.recipes.settings.verify import VerifySettings
from sfplus.recipes.steps import PlanRequest, StageKey


class Recipe(BaseModel):
    """A recipe for faces or for images; each key holds the settings of one stage.

    What a stage takes from another one is implied by the keys: it is never a path into the cache.
    """

    model_config = ConfigDict(extra="forbid")

    sample: SampleSettings | None = None
    detect: DetectSettings = DetectSettings()
    align: AlignSettings = AlignSettings()
    train: TrainSettings | None = None
    finetune: FinetuneSettings | None = None
    embed: EmbedSettings = EmbedSettings()
    identify: IdentifySettings | None = None  # before verify, by which sweeps compare
    verify: VerifySettings | None = None
    classify: ClassifySettings | None = None
    generate: GenerateSettings | None = None
    report: ReportSettings = ReportSettings()
    small: dict[str, Any] | None = Field(None, description="keys and values of the smallest meaningful run")

    def stage_keys(self) -> Iterator[tuple[str, StageKey]]:
        """Iterate over the keys that are set, or have a default, with their settings."""
        for name in type(self).model_fields:
            if isinstance(key := getattr(self, name), StageKey):
                yield name, key

    def plan_request(self, text: str = "", command: str = "") -> PlanRequest:
        """Return the keys to plan, with the YAML and the command that the report shows."""
        return PlanRequest(dict(self.stage_keys()), text, command)

    @property
    def has_stages(self) -> bool:
        """True if a stage is requested; detect, align, embed and report run only for other stages."""
        fields = type(self).model_fields
        return any(fields[name].default is None for name, _ in self.stage_keys())

    @model_validator(mode="after")
    def _check_stages_fit_together(self) -> Recipe:
        image_keys = [name for name, key in self.stage_keys() if key.for_images]
        face_keys = [
            name
            for name, key in self.stage_keys()
            if name in self.model_fields_set and not key.for_images and name != "report"
        ]
        if face_keys and image_keys:
            raise ValueError(
                f"{face_keys[0]} is for recipes of faces, {' and '.join(image_keys)} for recipes of images: write two "
                "recipes"
            )
        if (self.train or self.finetune) and self.align.template not in TEMPLATES:
            raise ValueError(f"align.template: networks are trained on {' or '.join(TEMPLATES)} crops")
        trainings = [key for key in (self.train, self.finetune) if key]
        if trainings and not (self.sample or any(key.photos for key in trainings)):
            raise ValueError("train.photos is missing: give the folder of the training photos")
        if self.train and self.finetune and self.finetune.photos:
            raise ValueError("finetune.photos is only for recipes without train: fine-tuning uses the same photos")
        holds_out = any(key.photos and key.classifies for key in trainings) and not (
            self.verify and (self.verify.photos or self.verify.pairs)
        )
        if self.verify and not ((self.verify.photos and self.verify.pairs) or self.sample or holds_out):
            raise ValueError("verify.photos or verify.pairs is missing: give the photos and their pair list")
        if self.finetune and not (self.train or self.finetune.model):
            raise ValueError("finetune.model is missing: give the model to start from, or add a train stage")
        if (self.verify or self.identify) and not (self.train or self.finetune or self.embed.model):
            raise ValueError("embed.model is missing: name a trained model, or add a train stage")
        if self.detect.choose == "all":
            rule = "needs one face per photo: choose another value of detect.choose"
            if self.identify and not self.identify.crops:
                raise ValueError(f"identify {rule}")
            if self.verify and not self.verify.has_crops:
                raise ValueError(f"verify {rule}")
        if any(key.evaluate_every for key in trainings) and not self.verify:
            raise ValueError("evaluate_every needs held-out pairs: add a verify stage, whose pairs are used")
        if any(key.evaluate_every for key in trainings) and self.verify and self.verify.has_crops:
            raise ValueError("evaluate_every needs held-out photos that are aligned as in training, not crops")
        return self


def key_classes() -> dict[str, type[StageKey]]:
    """Return the class of the settings of each key that is a stage."""
    kinds = [
        (name, kind)
        for name, field in Recipe.model_fields.items()
        for kind in (field.annotation, *get_args(field.annotation))
    ]
    return {name: kind for name, kind in kinds if isinstance(kind, type) and issubclass(kind, StageKey)}


def image_keys() -> list[str]:
    """Return the keys of recipes for images."""
    return [name for name, kind in key_classes().items() if kind.for_images]
