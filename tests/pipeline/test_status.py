"""The status of steps: fresh, stale and why, partial, missing."""

import json
import shutil
from pathlib import Path

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.context import RunContext
from sfplus.artifacts.stage import partial_folder
from sfplus.io.console import Console
from sfplus.io.files import digest_json
from sfplus.pipeline.execute import run_steps
from sfplus.pipeline.plan import plan, steps_until
from sfplus.pipeline.status import step_statuses
from sfplus.recipes.load import load_recipe


def states(tiny: Path, run: RunContext, *overrides: str) -> dict[str, tuple[str, str]]:
    steps = plan(load_recipe(tiny, overrides))
    return {row.step: (row.state, row.reason) for row in step_statuses(steps, run, run.workspace / "run.json")}


def test_status_says_fresh_stale_and_why_partial_and_missing(tiny: Path, tmp_path: Path) -> None:
    run = RunContext(tmp_path, Console(quiet=True), "cpu")
    steps = plan(load_recipe(tiny))
    assert states(tiny, run)["sample"][0] == "missing" and states(tiny, run)["train"] == (
        "missing",
        "waits for align/train",
    )
    run_steps(steps_until(steps, "align"), run, run.workspace / "run.json")
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
    identity = json.loads((run.workspace / "run.json").read_text())[step]
    artefact = Artefact.open(run.artefact_folder(identity["stage"], digest_json(identity)))
    assert artefact
    return artefact


def test_a_changed_photo_makes_what_follows_stale(drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn, tmp_path / "photos")
    run = RunContext(tmp_path / "data", Console(quiet=True), "cpu")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"detect: {{min_face: 60}}\ntrain: {{photos: {tmp_path / 'photos'}}}\n")
    run_steps(steps_until(plan(load_recipe(recipe)), "detect"), run, run.workspace / "run.json")
    assert states(recipe, run)["detect/train"][0] == "fresh"
    photo = next((tmp_path / "photos").glob("*/*.jpg"))
    photo.write_bytes(photo.read_bytes() + b" ")
    assert states(recipe, run)["detect/train"] == ("stale", "input photos changed")
