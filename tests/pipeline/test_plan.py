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
        "sample", "detect/train", "align/train", "train", "control", "finetune", "detect/verify", "align/verify",
        "embed/train", "verify/train", "embed/control", "verify/control", "embed/finetune", "verify/finetune", "report",
    ]  # fmt: skip
    earlier: set[str] = set()
    for step in steps:
        assert {reference.step for reference in step.inputs.values() if isinstance(reference, StepOutput)} <= earlier
        earlier.add(step.name)


def test_steps_until_a_stage_are_those_that_it_needs() -> None:
    steps = plan(load_recipe(Path("pipelines/demo.yaml")))
    until = names(steps_until(steps, "finetune"))
    assert until == ["sample", "detect/train", "align/train", "train", "control", "finetune"]
    with pytest.raises(UsageError, match="no stage 'fly'"):
        steps_until(steps, "fly")


def test_fine_tuning_of_an_existing_model_needs_no_training(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("finetune: {photos: p, model: m}\nverify: {photos: a, pairs: b}\n")
    steps = plan(load_recipe(tmp_path / "r.yaml"))
    assert names(steps)[:3] == ["detect/train", "align/train", "finetune"] and "verify/finetune" in names(steps)


def test_the_control_differs_from_fine_tuning_in_the_energy_alone() -> None:
    path = Path("pipelines/demo.yaml")
    steps = {step.name: step for step in plan(load_recipe(path))}
    control, tuned = steps["control"], steps["finetune"]
    assert control.inputs == tuned.inputs and control.stage is tuned.stage
    with_energy, without = (step.stage.identity(step.settings, {})["settings"] for step in (tuned, control))
    assert without["energy"].pop("weight") == 0 and with_energy["energy"].pop("weight") == 1 and with_energy == without
    for override in ("finetune.control=false", "finetune.energy.weight=0"):
        assert "control" not in names(plan(load_recipe(path, [override])))
    alone = {step.name: step for step in plan(load_recipe(path, ["finetune.control=false"]))}["finetune"]
    assert alone.stage.identity(alone.settings, {}) == tuned.stage.identity(tuned.settings, {})
    zero = {step.name: step for step in plan(load_recipe(path, ["finetune.energy.weight=0"]))}["finetune"]
    assert zero.stage.identity(zero.settings, {}) == control.stage.identity(control.settings, {})


def test_fine_tuning_excludes_the_people_that_training_excludes() -> None:
    recipe = load_recipe(Path("pipelines/demo.yaml"), ["train.exclude=[person_001]"])
    settings = {step.name: step.settings for step in plan(recipe)}
    assert settings["finetune"].exclude == ("person_001",)


def test_photos_without_a_face_get_a_centre_crop_only_for_verification() -> None:
    settings = {step.name: step.settings for step in plan(load_recipe(Path("pipelines/demo.yaml")))}
    assert settings["align/train"].undetected == "drop" and settings["align/verify"].undetected == "centre-crop"
