"""The plan of a recipe: its steps, their order, inputs and settings."""

import json
from pathlib import Path

import pytest

from sfplus.artifacts.context import RunContext
from sfplus.errors import UsageError
from sfplus.io.console import Console
from sfplus.pipeline.plan import check_available_inputs, check_inputs, plan, steps_until
from sfplus.recipes.load import load_recipe
from sfplus.recipes.steps import Step, StepOutput, UserModel


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


@pytest.mark.parametrize(
    ("stages", "key"),
    [
        ("verify: {}\nembed: {model: own}\n", "embed.network"),
        ("finetune: {model: own}\n", "finetune.network"),
        ("train: {teacher: own}\n", "train.teacher.network"),
        ("finetune: {model: plain, teacher: {model: own}}\n", "finetune.teacher.network"),
    ],
)
def test_a_model_whose_network_is_code_needs_its_name_in_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stages: str, key: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, network in (("own", "their_parts:small"), ("plain", "sphereface4")):
        Path(folder).mkdir()
        config = {"network": network, "feature_size": 16, "width": 1.0, "template": "sphereface-112x96"}
        Path(folder, "config.json").write_text(json.dumps(config))
        Path(folder, "model.safetensors").touch()
    Path("r.yaml").write_text(
        f"sample: {{people: 8, photos: 2, verify_people: 4, folds: 2, pairs_per_fold: 2}}\n{stages}"
    )
    steps = plan(load_recipe(Path("r.yaml")))
    message = f"own/config.json: its network is code, their_parts:small, which .* add {key}=their_parts:small if you"
    with pytest.raises(UsageError, match=message):
        check_inputs(steps, Path("data"))
    with pytest.raises(UsageError, match=message):
        check_available_inputs(steps, Path("data"), RunContext(Path("data"), Console()))
    UserModel("own", "my_parts:small").check_code()
    UserModel("plain").check_code()
