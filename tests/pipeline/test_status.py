"""The status of steps: fresh, partial, missing, or stale with the reason."""

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


def states(tiny: Path, context: RunContext, *overrides: str) -> dict[str, tuple[str, str]]:
    steps = plan(load_recipe(tiny, overrides))
    return {row.step: (row.state, row.reason) for row in step_statuses(steps, context, context.workspace / "run.json")}


def test_steps_are_missing_fresh_stale_or_partial(tiny: Path, tmp_path: Path) -> None:
    context = RunContext(tmp_path, Console(quiet=True), "cpu")
    steps = plan(load_recipe(tiny))
    assert states(tiny, context)["sample"][0] == "missing" and states(tiny, context)["train"] == (
        "missing",
        "waits for align/train",
    )
    run_steps(steps_until(steps, "align"), context, context.workspace / "run.json")
    aligned = states(tiny, context)
    assert aligned["align/train"][0] == aligned["detect/verify"][0] == "fresh" and aligned["train"][0] == "missing"

    changed = states(tiny, context, "align.jpeg_quality=90")
    assert changed["detect/train"][0] == "fresh"
    assert changed["align/train"] == ("stale", "jpeg_quality: 75 -> 90")
    assert states(tiny, context, "sample.seed=1")["sample"] == ("stale", "seed: 0 -> 1")
    assert states(tiny, context, "sample.seed=1")["align/train"] == ("stale", "waits for sample")

    identity = steps[3].stage.identity(steps[3].settings, {"crops": open_artefact(context, "align/train")})
    partial_folder(context.artefact_folder("train", digest_json(identity))).mkdir(parents=True)
    assert states(tiny, context)["train"][0] == "partial"


def open_artefact(context: RunContext, step: str):
    identity = json.loads((context.workspace / "run.json").read_text())[step]
    artefact = Artefact.open(context.artefact_folder(identity["stage"], digest_json(identity)))
    assert artefact
    return artefact


def test_a_changed_photo_makes_its_stages_stale(drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn, tmp_path / "photos")
    context = RunContext(tmp_path / "data", Console(quiet=True), "cpu")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"detect: {{min_face: 60}}\ntrain: {{photos: {tmp_path / 'photos'}}}\n")
    run_steps(steps_until(plan(load_recipe(recipe)), "detect"), context, context.workspace / "run.json")
    assert states(recipe, context)["detect/train"][0] == "fresh"
    photo = next((tmp_path / "photos").glob("*/*.jpg"))
    photo.write_bytes(photo.read_bytes() + b" ")
    assert states(recipe, context)["detect/train"] == ("stale", "input photos changed")
