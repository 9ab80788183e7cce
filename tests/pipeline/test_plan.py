"""Steps of a recipe: their order, inputs and settings."""

from pathlib import Path

import pytest

from sfplus.artifacts.context import RunContext
from sfplus.errors import UsageError
from sfplus.io.console import Console
from sfplus.pipeline.execute import run_steps
from sfplus.pipeline.plan import plan, steps_until
from sfplus.recipes.load import load_recipe
from sfplus.recipes.steps import Step, StepOutput


def names(steps: list[Step]) -> list[str]:
    return [step.name for step in steps]


def test_plan_of_the_demo() -> None:
    steps = plan(load_recipe(Path("pipelines/demo.yaml")))
    assert names(steps) == [
        "sample", "detect/train", "align/train", "train", "finetune", "detect/verify", "align/verify",
        "embed/train", "verify/train", "embed/finetune", "verify/finetune", "report",
    ]  # fmt: skip
    seen: set[str] = set()
    for step in steps:
        assert {reference.step for reference in step.inputs.values() if isinstance(reference, StepOutput)} <= seen
        seen.add(step.name)


def test_until_takes_only_what_the_stage_needs() -> None:
    steps = plan(load_recipe(Path("pipelines/demo.yaml")))
    assert names(steps_until(steps, "finetune")) == ["sample", "detect/train", "align/train", "train", "finetune"]
    with pytest.raises(UsageError, match="no stage 'fly'"):
        steps_until(steps, "fly")


def test_fine_tuning_a_given_model_needs_no_training(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("finetune: {photos: p, model: m}\nverify: {photos: a, pairs: b}\n")
    steps = plan(load_recipe(tmp_path / "r.yaml"))
    assert names(steps)[:3] == ["detect/train", "align/train", "finetune"] and "verify/finetune" in names(steps)


def test_fine_tuning_leaves_out_the_people_that_training_leaves_out() -> None:
    recipe = load_recipe(Path("pipelines/demo.yaml"), ["train.exclude=[person_001]"])
    settings = {step.name: step.settings for step in plan(recipe)}
    assert settings["finetune"].exclude == ("person_001",)


def test_settings_that_change_no_result_change_no_fingerprint() -> None:
    one, two = (plan(load_recipe(Path("pipelines/demo.yaml"), [f"train.checkpoint_every={n}"])) for n in (5, 9))
    identity = [next(s for s in steps if s.name == "train") for steps in (one, two)]
    assert identity[0].stage.identity(identity[0].settings, {}) == identity[1].stage.identity(identity[1].settings, {})


def test_photos_may_not_hold_the_cache(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"train: {{photos: {tmp_path}}}\n")
    with pytest.raises(UsageError, match="contains the cache"):
        run_steps(plan(load_recipe(tmp_path / "r.yaml")), RunContext(tmp_path / "data", Console(quiet=True), "cpu"))


def test_undetected_photos_get_a_centre_crop_for_verification_only() -> None:
    settings = {step.name: step.settings for step in plan(load_recipe(Path("pipelines/demo.yaml")))}
    assert settings["align/train"].undetected == "drop" and settings["align/verify"].undetected == "centre-crop"
