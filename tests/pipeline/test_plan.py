import json
from pathlib import Path

import pytest

from sfplus.artifacts.context import RunContext
from sfplus.artifacts.stage import partial_folder
from sfplus.errors import UsageError
from sfplus.io.console import Console
from sfplus.io.files import digest_json
from sfplus.pipeline import plan as chain
from sfplus.pipeline.status import step_statuses
from sfplus.recipes.load import load_recipe


def names(steps: list[chain.Step]) -> list[str]:
    return [step.name for step in steps]


def test_plan_of_the_demo() -> None:
    steps = chain.plan(load_recipe(Path("pipelines/demo.yaml")))
    assert names(steps) == [
        "sample", "detect/train", "align/train", "train", "finetune", "detect/verify", "align/verify",
        "embed/train", "verify/train", "embed/finetune", "verify/finetune", "report",
    ]  # fmt: skip
    seen: set[str] = set()
    for step in steps:
        assert {source.step for source in step.inputs.values() if isinstance(source, chain.From)} <= seen
        seen.add(step.name)


def test_until_takes_only_what_the_stage_needs() -> None:
    steps = chain.plan(load_recipe(Path("pipelines/demo.yaml")))
    assert names(chain.closure(steps, "finetune")) == ["sample", "detect/train", "align/train", "train", "finetune"]
    with pytest.raises(UsageError, match="no stage 'fly'"):
        chain.closure(steps, "fly")


def test_fine_tuning_a_given_model_needs_no_training(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("finetune: {photos: p, model: m}\nverify: {photos: a, pairs: b}\n")
    steps = chain.plan(load_recipe(tmp_path / "r.yaml"))
    assert names(steps)[:3] == ["detect/train", "align/train", "finetune"] and "verify/finetune" in names(steps)


def test_fine_tuning_leaves_out_whom_training_left_out() -> None:
    recipe = load_recipe(Path("pipelines/demo.yaml"), ["train.exclude=[person_001]"])
    settings = {step.name: step.settings for step in chain.plan(recipe)}
    assert settings["finetune"].exclude == ("person_001",)


def test_settings_that_change_no_result_change_no_fingerprint() -> None:
    one, two = (chain.plan(load_recipe(Path("pipelines/demo.yaml"), [f"train.checkpoint_every={n}"])) for n in (5, 9))
    identity = [next(s for s in steps if s.name == "train") for steps in (one, two)]
    assert identity[0].stage.identity(identity[0].settings, {}) == identity[1].stage.identity(identity[1].settings, {})


def test_photos_may_not_hold_the_cache(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"train: {{photos: {tmp_path}}}\n")
    with pytest.raises(UsageError, match="holds the cache too"):
        chain.run_steps(
            chain.plan(load_recipe(tmp_path / "r.yaml")), RunContext(tmp_path / "data", Console(quiet=True), "cpu")
        )


def test_undetected_photos_get_a_centre_crop_for_verification_only() -> None:
    settings = {step.name: step.settings for step in chain.plan(load_recipe(Path("pipelines/demo.yaml")))}
    assert settings["align/train"].undetected == "drop" and settings["align/verify"].undetected == "centre-crop"


def states(tiny: Path, run: RunContext, *overrides: str) -> dict[str, tuple[str, str]]:
    steps = chain.plan(load_recipe(tiny, overrides))
    return {row.step: (row.state, row.reason) for row in step_statuses(steps, run, run.workspace / "run.json")}


def test_status_says_fresh_stale_and_why_partial_and_missing(tiny: Path, tmp_path: Path) -> None:
    run = RunContext(tmp_path, Console(quiet=True), "cpu")
    steps = chain.plan(load_recipe(tiny))
    assert states(tiny, run)["sample"][0] == "missing" and states(tiny, run)["train"] == (
        "missing",
        "waits for align/train",
    )
    chain.run_steps(chain.closure(steps, "align"), run, run.workspace / "run.json")
    now = states(tiny, run)
    assert now["align/train"][0] == now["detect/verify"][0] == "fresh" and now["train"][0] == "missing"

    changed = states(tiny, run, "align.jpeg_quality=90")
    assert changed["detect/train"][0] == "fresh"
    assert changed["align/train"] == ("stale", "jpeg_quality: 75 -> 90")
    assert states(tiny, run, "sample.seed=1")["sample"] == ("stale", "seed: 0 -> 1")
    assert states(tiny, run, "sample.seed=1")["align/train"] == ("stale", "waits for sample")

    identity = steps[3].stage.identity(steps[3].settings, {"crops": run_artefact(run, "align/train")})
    partial_folder(run.artefact_folder("train", digest_json(identity))).mkdir(parents=True)
    assert states(tiny, run)["train"][0] == "partial"


def run_artefact(run: RunContext, step: str):
    from sfplus.artifacts.artefact import Artefact

    identity = json.loads((run.workspace / "run.json").read_text())[step]
    artefact = Artefact.open(run.artefact_folder(identity["stage"], digest_json(identity)))
    assert artefact
    return artefact


def test_a_changed_photo_makes_what_follows_stale(drawn: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(drawn, tmp_path / "photos")
    run = RunContext(tmp_path / "data", Console(quiet=True), "cpu")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"detect: {{min_face: 60}}\ntrain: {{photos: {tmp_path / 'photos'}}}\n")
    chain.run_steps(chain.closure(chain.plan(load_recipe(recipe)), "detect"), run, run.workspace / "run.json")
    assert states(recipe, run)["detect/train"][0] == "fresh"
    photo = next((tmp_path / "photos").glob("*/*.jpg"))
    photo.write_bytes(photo.read_bytes() + b" ")
    assert states(recipe, run)["detect/train"] == ("stale", "input photos changed")
