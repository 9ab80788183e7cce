"""Recipes with a teacher from photos to report: the cosine on held-out faces, and what is written about the teacher."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from result_files import read_parquet
from teacher_models import colour_network
from test_shipped_recipes import SMALL, SMALL_TRAIN

from sfplus.datasets.pairs import draw_pairs, write_pairs
from sfplus.datasets.portraits import write_portraits
from sfplus.images import list_photos, read_photo
from sfplus.io.markdown import escape_markdown
from sfplus.networks import create
from sfplus.networks.normalize import normalize_crops
from sfplus.recipes.load import find_recipe
from sfplus.weights.hub import PretrainedModel
from sfplus.weights.loading import load_model

Sfplus = Callable[..., Any]
TEACHER = "train.teacher.model=teacher_models:colour_network"


def artefact(workspace: Path, stage: str) -> Path:
    """Return the newest artefact of a stage."""
    manifests = (workspace / "cache" / stage).glob("*/manifest.json")
    return max(manifests, key=lambda path: path.stat().st_mtime_ns).parent


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn photos of people to train on, in no person's folder, and of other people to verify."""
    root = tmp_path_factory.mktemp("photos")
    write_portraits(root / "drawn", 10, 4, 0)
    for number, photo in enumerate(list_photos(root / "drawn")):
        (root / "train" / f"album {number % 2}").mkdir(parents=True, exist_ok=True)
        (root / "drawn" / photo).rename(root / "train" / (f"album {number % 2}" if number else "") / f"{number}.jpg")
    write_portraits(root / "lfw", 6, 3, 0, first_person=10)
    write_pairs(root / "pairs.txt", draw_pairs(list_photos(root / "lfw"), 2, 4, 0))
    return root


@pytest.mark.slow
def test_the_cosine_to_the_teacher_rises_on_held_out_faces(photos: Path, tmp_path: Path, sfplus: Sfplus) -> None:
    """Only the teacher is learned, so a loss that is not connected would leave the initial network."""
    (tmp_path / "r.yaml").write_text(
        "detect: {min_face: 60, factor: 0.7}\n"
        f"verify: {{photos: {photos / 'lfw'}, pairs: {photos / 'pairs.txt'}}}\n"
        f"train: {{photos: {photos / 'train'}, network: sphereface4, width: 0.25, feature_size: 48, steps: [],\n"
        "  batch_size: 16, base_lr: 0.05, clip: 1, max_iter: 60, log_every: 20, batch_norm: true, mirror: false,\n"
        "  teacher: {model: 'teacher_models:colour_network', input: sphereface, mirror: false, classify: false}}\n"
    )
    answer = sfplus("run", tmp_path / "r.yaml", "--workspace", photos, "--device", "cpu")
    assert answer.code == 0, answer.err
    crops = sorted(artefact(photos, "align").glob("crops/person_*/*.jpg"))
    assert len(crops) >= 12
    x = normalize_crops(torch.from_numpy(np.stack([read_photo(crop) for crop in crops])))
    trained, _ = load_model(artefact(photos, "train"))
    torch.manual_seed(0)
    initial = create("sphereface4", feature_size=48, width=0.25, batch_norm=True).eval()
    with torch.inference_mode():
        taught = colour_network()(x)
        before, after = (torch.cosine_similarity(network(x), taught).mean().item() for network in (initial, trained))
        centred = [features - features.mean(0) for features in (trained(x), taught)]
    assert after > before + 0.3 and after > 0.5
    own = torch.cosine_similarity(*centred).mean()
    others = torch.cosine_similarity(centred[0], centred[1].roll(5, 0)).mean()
    assert own > others + 0.3, "the features follow those of the same face, not only the mean"


@pytest.mark.slow
def test_the_shipped_recipe_says_what_it_is_distilled_from(photos: Path, tmp_path: Path, sfplus: Sfplus) -> None:
    small = [word for word in (*SMALL, *SMALL_TRAIN) if not word.startswith("finetune")]
    inputs = [f"train.photos={photos / 'train'}", f"verify.photos={photos / 'lfw'}", "train.warmup=0",
              f"verify.pairs={photos / 'pairs.txt'}"]  # fmt: skip
    words = [*small, *inputs, TEACHER, "--workspace", photos, "--device", "cpu"]
    answer = sfplus("run", "sphereface10-distilled", *words)
    assert answer.code == 0, answer.err
    assert "cosine to the teacher" in answer.err
    name = "teacher_models:colour_network"
    config = json.loads((artefact(photos, "train") / "config.json").read_text())
    (teacher,) = config["teachers"]
    assert teacher["name"] == name and teacher["licence"] == "Apache-2.0" and len(teacher["sha256"]) == 64
    assert config["head"] is None and "people" not in config and config["crops"] == 40
    assert not list(artefact(photos, "train").glob("head*")) + list(artefact(photos, "train").glob("people*"))
    folder = photos / "runs/sphereface10-distilled"
    report = json.loads((folder / "report.json").read_text())
    assert list(report["results"]) == [f"distilled from {name}"]
    sentence = f"Distilled from {name} (licence: Apache-2.0, SHA-256 {teacher['sha256'][:12]})."
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()[:400]
    assert page.index(sentence) < page.index("</header>") and sentence in text.replace("\\", "")
    first = report["histories"][f"distilled from {name}"][0]
    assert first["accuracy"] is None and first["loss"] == first["distillation"] > 1 - first["teacher_cosine"] > 0
    sizes = {Image.open(next(path.rglob("*.jpg"))).size for path in (photos / "cache/align").glob("*/crops")}
    assert sizes == {(96, 112), (112, 112)}, "the photos are aligned for both"
    table = read_parquet(artefact(photos, "teach") / "index.parquet")
    assert len(table["crop"]) == 40 and sum(crop.startswith("album ") for crop in table["crop"]) == 39

    again = sfplus("run", "sphereface10-distilled", *words)
    assert again.err.count("fresh") == 10, again.err
    status = sfplus("status", "sphereface10-distilled", *words[:-2])
    assert "teach/train" in status.out and "stale" not in status.out
    assert sfplus("export", "sphereface10-distilled", tmp_path / "model", *words).code == 0
    exported = json.loads((tmp_path / "model/config.json").read_text())
    assert exported["teachers"] == [teacher] and exported["verification"]["protocol"] == "sphereface"
    card = str(PretrainedModel.from_pretrained(tmp_path / "model").generate_model_card())
    assert f"\n{escape_markdown(sentence)}\n" in card[: card.index("| network |")] and "40 crops without labels" in card


@pytest.mark.slow
def test_a_teacher_beside_the_head_and_fine_tuning_from_its_student(tiny: Path, tmp_path: Path, sfplus: Sfplus) -> None:
    words = [TEACHER, "train.teacher.input=insightface", "train.teacher.relational=1", "--until", "finetune"]
    answer = sfplus("run", tiny, *words, "--workspace", tmp_path, "--device", "cpu")
    assert answer.code == 0, answer.err
    rows = [json.loads(line) for line in (artefact(tmp_path, "train") / "history.jsonl").read_text().splitlines()]
    assert all(row["accuracy"] is not None and -1 <= row["teacher_cosine"] <= 1 for row in rows)
    configs = [json.loads((artefact(tmp_path, stage) / "config.json").read_text()) for stage in ("train", "finetune")]
    assert configs[0]["teachers"] == configs[1]["teachers"] and configs[0]["teachers"][0]["licence"] == "unknown"
    assert configs[1]["start"] == "SphereFace (A-Softmax, m = 2), distilled from teacher_models:colour_network"
    finetuned = json.loads((artefact(tmp_path, "finetune") / "history.jsonl").read_text().splitlines()[0])
    assert "teacher_cosine" not in finetuned


def test_a_recipe_is_checked_without_its_teacher(sfplus: Sfplus) -> None:
    answer = sfplus("recipes", "check", find_recipe("sphereface10-distilled"))
    assert answer.code == 0 and "align/arcface-112x112 -> teach/train -> train -> " in answer.out
    answer = sfplus("run", "sphereface10-distilled", "train.photos=tests", "verify.photos=tests")
    assert answer.code == 2 and "data/teacher.onnx" in answer.err
