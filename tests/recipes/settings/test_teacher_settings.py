"""The key `teacher`: the steps that it adds, what decides fingerprints, and settings that are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sfplus.errors import RecipeError, UsageError
from sfplus.pipeline.plan import plan
from sfplus.recipes.load import load_recipe
from sfplus.recipes.settings.finetune import FinetuneSettings
from sfplus.recipes.settings.teacher import TeacherSettings
from sfplus.recipes.settings.train import TrainSettings
from sfplus.recipes.steps import Step, StepOutput, UserModel, UserPack, UserPhotos

RECIPE = """train: {photos: p, teacher: {model: t.onnx, input: insightface}}
finetune: {}
"""


def plan_of(folder: Path, text: str = RECIPE, *overrides: str) -> dict[str, Step]:
    (folder / "r.yaml").write_text(text)
    return {step.name: step for step in plan(load_recipe(folder / "r.yaml", overrides))}


def identity(step: Step) -> dict[str, Any]:
    return step.stage.identity(step.settings, {})


def test_the_photos_are_aligned_for_a_teacher_of_another_template(tmp_path: Path) -> None:
    steps = plan_of(tmp_path)
    assert list(steps) == ["detect/train", "align/train", "align/arcface-112x112", "teach/train", "train", "finetune"]
    aligned = steps["align/arcface-112x112"]
    assert aligned.inputs == steps["align/train"].inputs and aligned.inputs["faces"] == StepOutput("detect/train")
    assert [identity(step)["settings"]["fit"] for step in (steps["align/train"], aligned)] == ["image", "template"]
    assert steps["teach/train"].inputs == {
        "crops": StepOutput("align/arcface-112x112"), "model": UserModel("t.onnx", "", "insightface")
    }  # fmt: skip
    assert steps["train"].inputs["crops"] == StepOutput("align/train")
    assert steps["train"].inputs["teacher"] == StepOutput("teach/train") and "teacher" not in steps["finetune"].inputs


@pytest.mark.parametrize(
    ("override", "shared"),
    [
        ("train.teacher.input=sphereface", True),
        ("align.template=arcface-112x112", True),
        ("align={template: arcface-112x112, fit: image}", False),
        ("align={template: arcface-112x112, first_pixel: 1}", False),
    ],
)
def test_crops_are_shared_where_the_student_takes_the_same_ones(override: str, shared: bool, tmp_path: Path) -> None:
    steps = plan_of(tmp_path, RECIPE, override)
    assert (steps["teach/train"].inputs["crops"] == StepOutput("align/train")) is shared
    assert sum(name.startswith("align/") for name in steps) == (1 if shared else 2)


def test_a_pack_is_given_to_the_teacher_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "crops.u8").touch()
    steps = plan_of(tmp_path, RECIPE, f"train.photos={tmp_path / 'pack'}")
    assert list(steps) == ["teach/train", "train", "finetune"]
    assert steps["teach/train"].inputs["crops"] == steps["train"].inputs["crops"] == UserPack(tmp_path / "pack")


def test_training_and_fine_tuning_may_have_a_teacher_each(tmp_path: Path) -> None:
    steps = plan_of(tmp_path, RECIPE, "finetune.teacher={model: u.onnx, input: dlib}")
    assert [name for name in steps if name.startswith(("align/", "teach/"))] == [
        "align/train", "align/arcface-112x112", "teach/train", "align/dlib-150x150", "teach/finetune"
    ]  # fmt: skip


def test_a_teacher_alone_needs_no_people(tmp_path: Path) -> None:
    alone, beside = plan_of(tmp_path, RECIPE, "train.teacher.classify=false"), plan_of(tmp_path)
    photos = [steps["detect/train"].inputs["photos"] for steps in (alone, beside)]
    assert photos == [UserPhotos(Path("p")), UserPhotos(Path("p"), people="path")]


def test_content_and_weights_decide_fingerprints_not_the_path(tmp_path: Path) -> None:
    steps = plan_of(tmp_path)
    moved = plan_of(tmp_path, RECIPE, "train.teacher.model=elsewhere/u.onnx")
    assert all(identity(moved[name]) == identity(step) for name, step in steps.items())
    weighted = plan_of(tmp_path, RECIPE, "train.teacher.cosine=2")
    assert identity(weighted["teach/train"]) == identity(steps["teach/train"])
    assert identity(weighted["train"]) != identity(steps["train"])
    plain = plan_of(tmp_path, "train: {photos: p}\n")
    assert "teacher" not in identity(plain["train"])["settings"], "fingerprints of recipes without a teacher stay"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": {"model": ""}}, "at least 1 character"),
        ({"teacher": {}}, "model"),
        ({"teacher": {"model": "t", "cosine": 0}}, "both 0"),
        ({"teacher": {"model": "t", "cosine": -1}}, "cosine"),
        ({"teacher": {"model": "t", "relational": float("nan")}}, "relational"),
        ({"teacher": {"model": "t", "temperature": 4}}, "temperature"),
        ({"teacher": {"model": "t", "classify": False}, "energy": {}}, "cannot be combined with energy"),
        ({"teacher": {"model": "t", "classify": False}, "classes": "sharded"}, "classes: sharded"),
        ({"teacher": {"model": "t", "classify": False}, "sampler": "balanced"}, "or a sampler"),
        ({"teacher": {"model": "t", "relational": 1}, "accumulate": 2}, "cannot be combined with accumulate"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainSettings.model_validate(changes)


def test_fine_tuning_without_a_head_needs_an_energy_of_weight_0() -> None:
    teacher = {"model": "t", "classify": False}
    with pytest.raises(ValidationError, match="cannot be combined with energy"):
        FinetuneSettings.model_validate({"teacher": teacher})
    assert not FinetuneSettings.model_validate({"teacher": teacher, "energy": {"weight": 0}}).classifies


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.teacher.modle=t", "did you mean 'model'"),
        ("train.teacher=[t.onnx]", "give the name of a model, or keys"),
        ("train.teacher.input=insightfase", "did you mean 'insightface'"),
        ("train.teacher.input=template=round", "no template is called 'round'"),
        ("train.teacher={model: nowhere.onnx}", "there is no model 'nowhere.onnx'"),
    ],
)
def test_mistakes_in_a_recipe_are_explained(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises((RecipeError, UsageError), match=message) as error:
        plan_of(tmp_path, RECIPE, override)
    assert error.value.exit_code == 2


def test_the_name_of_a_model_is_enough() -> None:
    assert TrainSettings.model_validate({"teacher": "t.onnx"}).teacher == TeacherSettings(model="t.onnx")


def test_all_settings_are_described() -> None:
    assert all(field.description for field in TeacherSettings.model_fields.values())


def test_a_described_input_is_planned_without_torch(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    code = (
        "import sys; from pathlib import Path; from sfplus.pipeline.plan import plan\n"
        "from sfplus.recipes.load import load_recipe\n"
        f"plan(load_recipe(Path({str(tmp_path / 'r.yaml')!r}))); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
