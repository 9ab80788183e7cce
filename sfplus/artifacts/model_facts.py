"""What a model is, by its settings and manifest or its config.json: head, margin, energy, control."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.inputs import StageInput
from sfplus.errors import SfplusError, one_line
from sfplus.io.files import digest_json
from sfplus.io.import_path import is_import_path
from sfplus.io.json_files import read_json
from sfplus.weights import CONFIG
from sfplus.weights.teachers import read_teachers

_HEADS = {
    "asoftmax": "SphereFace", "lsoftmax": "L-Softmax", "softmax": "Softmax", "normface": "NormFace",
    "sphereface-r": "SphereFace-R", "sphereface2": "SphereFace2", "cosface": "CosFace", "arcface": "ArcFace",
    "adaface": "AdaFace",
}  # fmt: skip


@dataclass(frozen=True)
class ModelFacts:
    """The facts known about a model; those not known are empty.

    Attributes:
        label: the name that its user or its config.json gives it; empty for a model that the recipe trains.
        head: name and settings of the classifier that it was trained with.
        energy: `mode`, `power` and `weight` of the hyperspherical energy; empty where there was none.
        finetuned: whether it was trained from another model; None if that is not known, and then nothing is claimed
            about its energy either.
        content: digest of the model.
        start: digest of the model that it was trained from.
        training: digest of all that decided its training apart from the energy: equal for a model and its control.
        teachers: name, digest and licence of each model that it was distilled from.
        config: the content of its config.json.
    """

    label: str = ""
    head: Mapping[str, Any] = field(default_factory=dict)
    energy: Mapping[str, Any] = field(default_factory=dict)
    finetuned: bool | None = None
    content: str = ""
    start: str = ""
    training: str = ""
    teachers: Sequence[Mapping[str, str]] = ()
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, model: StageInput) -> ModelFacts:
        """Read the facts of a trained artefact, or of a model of the user's, whose config.json may lack them."""
        if isinstance(model, Artefact):
            return _of_artefact(model)
        folder = getattr(model, "folder", None)
        if not isinstance(folder, Path):
            return cls(label=model.describe(), content=model.content)
        try:
            artefact = Artefact.open(folder)
        except SfplusError:
            artefact = None
        if artefact and artefact.manifest["stage"] in ("train", "finetune"):
            return _of_artefact(artefact)
        config = _read_config(folder)
        label = config.get("name")
        return cls(
            label=label if isinstance(label, str) and label.strip() else folder.resolve().name,
            head=_mapping(config.get("head")),
            energy=_energy(config.get("energy")),
            finetuned="start" in config if "energy" in config else None,
            content=model.content,
            teachers=read_teachers(config),
            config=config,
        )

    @classmethod
    def from_json(cls, data: object) -> ModelFacts:
        """Restore the facts in a report.json, which anybody may have written."""
        data = _mapping(data)
        text = {key: str(data.get(key) or "") for key in ("label", "content", "start", "training")}
        finetuned = data["finetuned"] if isinstance(data.get("finetuned"), bool) else None
        head, energy = _mapping(data.get("head")), _energy(data.get("energy"))
        teachers = read_teachers(data)
        return cls(text["label"], head, energy, finetuned, text["content"], text["start"], text["training"], teachers)

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON data, without the config."""
        names = ("label", "head", "energy", "finetuned", "content", "start", "training")
        return {name: getattr(self, name) for name in names} | ({"teachers": self.teachers} if self.teachers else {})

    @property
    def name(self) -> str:
        """The name that its user gives it, else its description."""
        return self.label or self.description or "model"

    @property
    def description(self) -> str:
        """The model in the terms of the field, such as `SphereFace+ (m = 4, MHE s = 2, weight 1)`: head, margin, energy
        and whether it was fine-tuned, and its teachers; empty if the head is unknown and there is no teacher.
        """
        names = " and ".join(teacher["name"] for teacher in self.teachers)
        return ", ".join(filter(None, [self._training_description, names and f"distilled from {names}"]))

    @property
    def regulariser(self) -> str:
        """`MHE`, or the import path of a regulariser of the user's own; of a control, what it is trained without."""
        mode = str((self.energy or _mapping(self.config.get("energy"))).get("mode") or "")
        return mode if is_import_path(mode) else "MHE"

    @property
    def _training_description(self) -> str:
        kind = str(self.head.get("name") or "")
        if not kind:
            return ""
        family, margin = _HEADS.get(kind, kind), _numbers(self.head, {"m": "m", "scale": "s"})
        if self.finetuned is None:
            return f"trained with {'A-Softmax' if kind == 'asoftmax' else family}{_brackets(margin)}"
        mhe = _describe_energy(self.energy)
        if self.energy and self.regulariser != "MHE":
            how = "fine-tuned" if self.finetuned else "trained"
            weight = _numbers(self.energy, {"weight": "weight"})
            return f"{family}, {how} with {self.regulariser}{_brackets(margin, weight)}"
        if kind == "asoftmax" and mhe:
            return f"SphereFace+{_brackets(margin, f'MHE {mhe}')}"
        if self.finetuned:
            without = f"{family}, fine-tuned without {self.regulariser} (control)"
            return f"{family}, fine-tuned with MHE ({mhe})" if mhe else without
        if mhe:
            return f"{family} with MHE{_brackets(margin, f'MHE {mhe}')}"
        return f"{family}{_brackets('A-Softmax' if kind == 'asoftmax' else '', margin)}"


def name_models(models: Mapping[str, ModelFacts]) -> dict[str, str]:
    """Return the name of each model by its key; models of one name get their description too, then a number."""
    names = {key: one_line(facts.name) for key, facts in models.items()}
    counts = Counter(names.values())
    for key, facts in models.items():
        if counts[names[key]] > 1 and facts.label and facts.description:
            names[key] = one_line(f"{facts.label}: {facts.description}")
    counts, occurrences = Counter(names.values()), Counter[str]()
    for key, name in names.items():
        occurrences[name] += 1
        if counts[name] > 1:
            names[key] = f"{name} [{occurrences[name]}]"
    return names


def control_of(name: str, models: Mapping[str, ModelFacts]) -> str | None:
    """Return the model that was trained exactly as this one, but without energy; None if there is none."""
    facts = models.get(name, ModelFacts())
    if not (facts.energy and facts.training):
        return None
    controls = (model for model, about in models.items() if about.training == facts.training and not about.energy)
    return next(controls, None)


def start_of(name: str, models: Mapping[str, ModelFacts]) -> str | None:
    """Return the model that this one was fine-tuned from; None if there is none among these models."""
    start = models.get(name, ModelFacts()).start
    return next((model for model, about in models.items() if start and about.content == start), None)


def _of_artefact(artefact: Artefact) -> ModelFacts:
    """Return the facts of a model that sfplus trained, from its manifest."""
    manifest = artefact.manifest
    settings, inputs = manifest["settings"], manifest["inputs"]
    training = {key: value for key, value in settings.items() if key != "energy"}
    config = _read_config(artefact.folder)
    return ModelFacts(
        head={} if config.get("head", {}) is None else _mapping(settings.get("head")),
        energy=_energy(settings.get("energy")),
        finetuned="start" in inputs,
        content=artefact.content,
        start=str(inputs.get("start", "")),
        training=digest_json([manifest["stage"], manifest["version"], training, inputs]),
        teachers=read_teachers(config),
        config=config,
    )


def _read_config(folder: Path) -> dict[str, Any]:
    """Return the content of a model's config.json; empty if it has none, or none that is a mapping."""
    with contextlib.suppress(SfplusError):
        return read_json(folder / CONFIG, dict[str, Any], remedy="", limit="config_bytes")
    return {}


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _energy(value: object) -> dict[str, Any]:
    """Return the settings of an energy that has an effect, else nothing."""
    energy = _mapping(value)
    return energy if _is_number(energy.get("weight")) and energy["weight"] > 0 else {}


def _describe_energy(energy: Mapping[str, Any]) -> str:
    mode = str(energy.get("mode", "paper"))
    numbers = {"power": "s", "weight": "weight"} if mode != "caffe" else {"weight": "weight"}
    text = ", ".join(f"{name} = {energy[key]:g}" if name == "s" else f"{name} {energy[key]:g}"
                     for key, name in numbers.items() if _is_number(energy.get(key)))  # fmt: skip
    return f"{text}, mode {mode}" if text and mode != "paper" else text


def _numbers(settings: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return those settings that are numbers, such as `m = 0.5, s = 64`."""
    return ", ".join(f"{name} = {settings[key]:g}" for key, name in names.items() if _is_number(settings.get(key)))


def _brackets(*parts: str) -> str:
    text = ", ".join(part for part in parts if part)
    return f" ({text})" if text else ""


def _is_number(value: object) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63  # a larger one may not be a float
    return isinstance(value, float) and math.isfinite(value)
