"""`sfplus run` and `sfplus sweep` on recipes for images, and on a machine without the requested device."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from image_recipe_texts import CLASSIFY, GENERATE, REPORT
from PIL import Image


@pytest.fixture
def write(image_folder: Path, tmp_path: Path) -> Callable[[str], Path]:
    def _write(text: str) -> Path:
        path = tmp_path / "small.yaml"
        path.write_text(text.replace("IMAGES", str(image_folder)))
        return path

    return _write


def test_a_classifier_is_run_and_served_from_the_cache(
    write: Callable[[str], Path], tmp_path: Path, sfplus: Callable
) -> None:
    words = ["run", write(CLASSIFY + REPORT), "max_iter=2", "--workspace", tmp_path / "data", "--device", "cpu"]
    answer = sfplus(*words)
    assert answer.code == 0, answer.err
    folder = tmp_path / "data/runs/small"
    assert answer.out.startswith("classify: accuracy ") and answer.out.endswith(f"result: {folder}/result.md\n")
    text = (folder / "result.md").read_text()
    assert "# Dark and light" in text and "| published: theirs | | 99.00 |" in text and "max\\_iter" not in text
    assert "# changed on the command line: max_iter=2" in text and "sfplus run" in text
    result = json.loads((folder / "result.json").read_bytes())
    assert 0 <= result["accuracy"] <= result["best_accuracy"] <= 1 and (folder / "curves.png").is_file()
    (folder / "plane.png").write_bytes(b"of an earlier run")
    again = sfplus(*words)
    assert not (folder / "plane.png").exists()
    assert "fresh" in again.err and "done" not in again.err and again.out == answer.out

    status = sfplus("status", write(CLASSIFY + REPORT), "energy.power=0", "--workspace", tmp_path / "data").out
    assert status.split()[:2] == ["classify", "stale"] and "energy.power: 2 -> 0" in status


@pytest.mark.slow
def test_a_sweep_of_generators_trains_the_scoring_classifier_once(
    write: Callable[[str], Path], tmp_path: Path, sfplus: Callable
) -> None:
    words = [write(CLASSIFY + GENERATE + REPORT), "--workspace", tmp_path / "data", "--device", "cpu"]
    answer = sfplus("sweep", *words, "energy=null,{}", "--seeds", 2)
    assert answer.code == 0, answer.err
    data = json.loads((tmp_path / "data/runs/small-sweep/sweep.json").read_bytes())
    assert data["metric"] == "surrogate_score"
    assert [row["label"] for row in data["rows"]] == ["energy=null", "energy={}"]
    for row in data["rows"]:  # an Inception score is between 1 and the number of classes
        assert all(1 <= value <= 2 for value in row["metrics"]["surrogate_score"]["values"])
    assert len(list((tmp_path / "data/cache/classify").glob("*/manifest.json"))) == 1  # one classifier for all
    assert len(list((tmp_path / "data/cache/generate").glob("*/manifest.json"))) == 4
    single = sfplus("run", *words)
    assert "generate: surrogate score " in single.out and (tmp_path / "data/runs/small/samples.png").is_file()


def test_missing_images_are_reported_before_anything_runs(
    write: Callable[[str], Path], tmp_path: Path, sfplus: Callable
) -> None:
    path = write(CLASSIFY + GENERATE)
    answer = sfplus("run", path, "generate.data.root=nowhere", "--workspace", tmp_path / "data")
    assert answer.code == 2 and "nowhere: does not exist; say where it is: data.root=" in answer.err
    answer = sfplus("run", path, "inception=nowhere.pth", "--workspace", tmp_path / "data")
    assert answer.code == 2 and "nowhere.pth: does not exist" in answer.err
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
@pytest.mark.plots
def test_a_recipe_runs_at_its_small_size(write: Callable[[str], Path], tmp_path: Path, sfplus: Callable) -> None:
    small = "small: {classify.max_iter: 1, classify.network: mnist6, report.published: []}\n"
    path = write(CLASSIFY + REPORT + small)
    words = [path, "--small", "--workspace", tmp_path / "data", "--device", "cpu"]
    assert sfplus("run", *words).code == 0
    text = (tmp_path / "data/runs/small-small/result.md").read_text()
    assert "# changed on the command line: classify.max_iter=1" in text
    assert "published: theirs" not in text and (tmp_path / "data/runs/small-small/plane.png").is_file()
    answer = sfplus("sweep", *words, "energy.mode=none,mhe")
    assert answer.code == 0 and answer.err.count("(fresh)") == 1, answer.err
    planes = Image.open(tmp_path / "data/runs/small-small-sweep/plane.png")
    assert planes.width > 1.5 * planes.height  # side by side
    answer = sfplus("run", write(CLASSIFY), "--small", "--workspace", tmp_path / "data")
    assert answer.code == 2 and "this recipe has no small size" in answer.err


@pytest.mark.parametrize("name", ["files", "folder"])
def test_a_download_is_not_recommended_for_data_that_cannot_be_downloaded(
    name: str, write: Callable[[str], Path], tmp_path: Path, sfplus: Callable
) -> None:
    words = [f"data.name={name}", "data.root=nowhere", "--workspace", tmp_path / "data"]
    for download in ([], ["data.download=true"]):
        answer = sfplus("run", write(CLASSIFY), *words, *download)
        assert answer.code == 2 and "nowhere: does not exist; say where it is: data.root" in answer.err
        assert "download" not in answer.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_run_on_a_missing_gpu_starts_nothing(tiny: Path, sfplus: Callable, tmp_path: Path) -> None:
    answer = sfplus("run", tiny, "--device", "cuda", "--workspace", tmp_path / "data")
    assert answer.code == 2 and "'cuda' does not exist, this machine has no GPU" in answer.err
    assert not (tmp_path / "data").exists()
