"""Checks of a plan before any work: what would fail only when a training starts, which may be hours later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sfplus.artifacts.code_input import CodeInput
from sfplus.artifacts.settings import deciding_settings
from sfplus.datasets.formats.pack import read_manifest
from sfplus.networks import DEFAULT_INPUT, is_library_network
from sfplus.recipes.settings.align import AlignSettings
from sfplus.recipes.settings.classify import ClassifySettings
from sfplus.recipes.settings.detect import DetectSettings
from sfplus.recipes.settings.finetune import FinetuneSettings
from sfplus.recipes.settings.generate import GenerateSettings
from sfplus.recipes.settings.train import SolverSettings, TrainSettings
from sfplus.recipes.steps import Step, StepOutput, UserCode, UserImages, UserModel, UserPack

if TYPE_CHECKING:
    from sfplus.pipeline.execute import Identity


def check_plan(steps: Sequence[Step], record: Mapping[str, Identity] | None = None) -> None:
    """Check the networks of libraries and the code of the user's own that the steps of a plan use.

    This imports and runs the code that the recipe names. The networks and heads of sfplus need no check: their settings
    are checked when the recipe is read.

    Args:
        steps: The steps.
        record: What was run last, by step: a step with the same settings and code is not checked again.

    Raises:
        UsageError: If a network, head, regulariser, set of images or detector does not exist, does not take its options
            or does not work.
    """
    for step in steps:
        if _may_fail(step) and not _was_run(step, record or {}):
            _check(step, steps)


def _may_fail(step: Step) -> bool:
    has_code = any(isinstance(reference, UserCode) for reference in step.inputs.values())
    images = (reference.settings for reference in step.inputs.values() if isinstance(reference, UserImages))
    return has_code or any(data.is_code for data in images) or is_library_network(_network(step))


def _network(step: Step) -> str:
    return step.settings.network if isinstance(step.settings, TrainSettings | ClassifySettings) else ""


def _was_run(step: Step, record: Mapping[str, Identity]) -> bool:
    """Return whether a step was run with the same settings and code."""
    code = {name: CodeInput(ref.path).content for name, ref in step.inputs.items() if isinstance(ref, UserCode)}
    last = record.get(step.name)
    return (
        last is not None
        and last["settings"] == deciding_settings(step.settings)
        and all(last["inputs"].get(name) == content for name, content in code.items())
        and not any(isinstance(reference, UserImages) for reference in step.inputs.values())
    )


def _check(step: Step, steps: Sequence[Step]) -> None:
    settings = step.settings
    if isinstance(settings, SolverSettings):
        from sfplus.training.setting_checks import check_training  # start-up time: imports torch

        networks = [planned.settings for planned in steps if isinstance(planned.settings, TrainSettings)]
        own_start = isinstance(settings, FinetuneSettings) and settings.model
        train = None if own_start or not networks else networks[0]
        check_training(settings, train, _crop_size(step, steps), _feature_size(step))
    elif isinstance(settings, ClassifySettings):
        from sfplus.image_tasks.setting_checks import check_classifier  # start-up time, as above

        check_classifier(settings)
    elif isinstance(settings, GenerateSettings):
        from sfplus.image_tasks.setting_checks import check_images  # start-up time, as above

        check_images(settings.data)
    elif isinstance(settings, DetectSettings):
        from sfplus.detection.own import find_detector_class  # start-up time, as above

        find_detector_class(settings.detector)


def _feature_size(step: Step) -> int:
    """Return the length of a feature of the model that a step starts from, or of most networks if it is not known."""
    start = step.inputs.get("start")
    config = start.described if isinstance(start, UserModel) else None
    return int((config or {}).get("feature_size", 512))


def _crop_size(step: Step, steps: Sequence[Step]) -> str:
    """Return the height x width of the crops that a step trains on."""
    crops = step.inputs["crops"]
    if isinstance(crops, UserPack) and crops.root.is_dir():
        manifest = read_manifest(crops.root)
        return f"{manifest['height']}x{manifest['width']}"
    aligned = (planned.settings for planned in steps if isinstance(crops, StepOutput) and planned.name == crops.step)
    template = next((align.find_template() for align in aligned if isinstance(align, AlignSettings)), None)
    return f"{template.height}x{template.width}" if template else DEFAULT_INPUT
