"""The plan of a recipe: its steps, their order, inputs and settings."""

from pathlib import Path

import pytest

from sfplus.errors import UsageError
from sfplus.pipeline.plan import plan, steps_until
from sfplus.recipes.load import load_recipe
from sfplus.recipes.steps import Step, StepOutput


def names(steps: list[Step]) -> list[str]:
    return [step.name for step in steps]


def test_the_steps_of_the_demo_come_after_those_that_they_need() -> None:
    steps = plan(load_recipe(Path("pipelines/demo.yaml")))
    assert names(steps) == [
        "sample", "detect/train", "align/train", "train", "finetune", "detect/verify", "align/verify",
        "embed/train", "verify/train", "embed/finetune", "verify/finetune", "report",
    ]  # fmt: skip
    earlier: set[str] = set()
    for step in steps:
        assert {reference.step for reference in step.inputs.values() if isinstance(reference, StepOutput)} <= earlier
        earlier.add(step.name)


def test_steps_until_a_stage_are_those_that_it_needs() -> None:
    steps = plan(load_recipe(Path("pipelines/demo.yaml")))
    assert names(steps_until(steps, "finetune")) == ["sample", "detect/train", "align/train", "train", "finetune"]
    with pytest.raises(UsageError, match="no stage 'fly'"):
        steps_until(steps, "fly")


def test_fine_tuning_of_an_existing_model_needs_no_training(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("finetune: {photos: p, model: m}\nverify: {photos: a, pairs: b}\n")
    steps = plan(load_recipe(tmp_path / "r.yaml"))
    assert names(steps)[:3] == ["detect/train", "align/train", "finetune"] and "verify/finetune" in names(steps)


def test_fine_tuning_excludes_the_people_that_training_excludes() -> None:
    recipe = load_recipe(Path("pipelines/demo.yaml"), ["train.exclude=[person_001]"])
    settings = {step.name: step.settings for step in plan(recipe)}
    assert settings["finetune"].exclude == ("person_001",)


def test_photos_without_a_face_get_a_centre_crop_only_for_verification() -> None:
    settings = {step.name: step.settings for step in plan(load_recipe(Path("pipelines/demo.yaml")))}
    assert settings["align/train"].undetected == "drop" and settings["align/verify"].undetected == "centre-crop"
