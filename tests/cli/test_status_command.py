"""`sfplus status` lists the steps of a recipe."""

from collections.abc import Callable
from pathlib import Path


def test_all_steps_of_a_new_recipe_are_missing(tiny: Path, sfplus: Callable, tmp_path: Path) -> None:
    lines = sfplus("status", tiny, "--workspace", tmp_path / "data").out.splitlines()
    assert lines[0].split() == ["sample", "missing"] and len(lines) == 12


def test_status_does_not_download_data(sfplus: Callable, tmp_path: Path) -> None:
    words = ["mhe-imbalance-mnist", f"data.root={tmp_path / 'mnist'}", "data.download=true", "--workspace", tmp_path]
    assert sfplus("status", *words).out.split() == [
        "classify",
        "missing",
        "its",
        "images",
        "are",
        "not",
        "downloaded",
        "yet",
    ]
    assert not (tmp_path / "mnist").exists()
