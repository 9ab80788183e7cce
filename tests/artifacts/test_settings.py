"""Settings that have no effect on results are not part of fingerprints."""

from pathlib import Path

from sfplus.pipeline.plan import plan
from sfplus.recipes.load import load_recipe


def test_settings_without_effect_on_the_result_do_not_change_the_fingerprint() -> None:
    plans = (plan(load_recipe(Path("pipelines/demo.yaml"), [f"train.checkpoint_every={n}"])) for n in (5, 9))
    first, second = (next(step for step in steps if step.name == "train") for steps in plans)
    assert first.stage.identity(first.settings, {}) == second.stage.identity(second.settings, {})
    assert first.settings != second.settings
