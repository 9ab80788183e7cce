"""Shipped recipes for faces: their settings, and a small run from photos to report with the expected first loss."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from untrained_models import save_untrained

from sfplus.artifacts.model_facts import ModelFacts, control_of, start_of
from sfplus.datasets.pairs import draw_pairs, write_pairs
from sfplus.datasets.portraits import write_portraits
from sfplus.images import list_photos
from sfplus.recipes.load import find_recipe, header, load_recipe, recipe_names

SMALL = ["detect.min_face=60", "detect.factor=0.7"]
SMALL_TRAIN = [
    "train.network=sphereface4", "train.width=0.125", "train.feature_size=16", "train.batch_size=8", "train.max_iter=3",
    "train.steps=[]", "train.log_every=1", "finetune.batch_size=8", "finetune.max_iter=3",
    "finetune.steps=[]", "finetune.log_every=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn photos instead of the data sets that the recipes need."""
    root = tmp_path_factory.mktemp("faces")
    write_portraits(root / "train", 4, 3, 0)
    write_portraits(root / "lfw", 4, 3, 0, first_person=4)
    write_pairs(root / "pairs.txt", draw_pairs(list_photos(root / "lfw"), 2, 4, 0))
    return root


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_are_valid_and_start_with_a_sentence(name: str) -> None:
    path = find_recipe(name)
    assert load_recipe(path) and header(path).endswith(".")


# Values of the prototxt files: m, base_lr, steps, lr_gamma, max_iter, gamma of lambda, first iteration of lambda.
SOLVERS = [
    (1, 0.05, (7000,), 0.2, 11000, 0.12, 0),
    (2, 0.1, (5000,), 0.1, 8000, 0.11, 0),
    (3, 0.1, (4000, 9000), 0.1, 12000, 0.11, 0),
    (4, 0.01, (4000, 6000), 0.1, 8000, 0.12, 2000),
]


def test_the_recipe_of_64_layers_differs_from_that_of_20_in_the_network_only() -> None:
    shallow, deep = (load_recipe(find_recipe(name)) for name in ("sphereface-plus-m4", "sphereface64-plus-m4"))
    assert deep.train and deep.train.network == "sphereface64"
    published = {row.name: row.figure for row in deep.report.published}
    assert published["SphereFace+, 64 layers, m = 4"] == ("accuracy", 0.9947)
    same = deep.model_dump(exclude={"train": {"network"}, "report": True})
    assert same == shallow.model_dump(exclude={"train": {"network"}, "report": True})


@pytest.mark.parametrize(("m", "lr", "steps", "lr_gamma", "max_iter", "gamma", "iteration"), SOLVERS)
def test_recipes_of_sphereface_plus_have_the_original_settings(
    m: int, lr: float, steps: tuple, lr_gamma: float, max_iter: int, gamma: float, iteration: int
) -> None:
    recipe = load_recipe(find_recipe(f"sphereface-plus-m{m}"))
    train, tune = recipe.train, recipe.finetune
    assert train and tune and recipe.detect.model_dump() == {
        "min_face": 20, "factor": 0.85, "thresholds": (0.6, 0.7, 0.9), "mirror_landmarks": True, "parity": "none",
        "choose": "centre", "detector": "mtcnn", "min_score": 0.7, "turned": False,
    }  # fmt: skip
    assert (recipe.align.template, recipe.align.fit) == ("sphereface-112x96", "image")
    assert (train.network, train.feature_size, train.batch_size, train.base_lr) == ("sphereface20", 512, 512, 0.1)
    assert (train.steps, train.lr_gamma, train.max_iter) == ((16000, 24000, 28000), 0.1, 28000)
    assert train.exclude == tune.exclude == ("0166921", "1056413", "1193098")
    assert (tune.base_lr, tune.steps, tune.lr_gamma, tune.max_iter) == (lr, steps, lr_gamma, max_iter)
    assert tune.head.model_dump() == {
        "name": "asoftmax", "m": m, "base": 1000, "gamma": gamma, "power": 1, "lambda_min": 5, "iteration": iteration,
        "gradient": "caffe",
    }  # fmt: skip
    assert (
        train.head.m == m and train.momentum == tune.momentum == 0.9 and train.weight_decay == tune.weight_decay == 5e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"sphereface-plus-{kind}" for kind in ("m1", "m2", "m3", "m4", "small")])
def test_training_recipes_start_at_the_loss_of_their_formula(
    name: str, faces: Path, tmp_path: Path, sfplus: Callable
) -> None:  # type: ignore[type-arg]
    inputs = [
        f"train.photos={faces / 'train'}",
        f"verify.photos={faces / 'lfw'}",
        f"verify.pairs={faces / 'pairs.txt'}",
    ]
    answer = sfplus("run", name, *SMALL, *SMALL_TRAIN, *inputs, "--workspace", tmp_path)
    assert answer.code == 0, answer.err
    report = json.loads((tmp_path / "runs" / name / "report.json").read_text())
    m = load_recipe(find_recipe(name)).train.head.m
    weight = load_recipe(find_recipe(name)).finetune.energy.weight
    start, control = f"SphereFace (A-Softmax, m = {m})", "SphereFace, fine-tuned without MHE (control)"
    plus = f"SphereFace+ (m = {m}, MHE s = 2, weight {weight:g})"
    assert list(report["results"]) == list(report["histories"]) == [start, control, plus]
    models = {key: ModelFacts.from_json(facts) for key, facts in report["models"].items()}
    assert control_of(plus, models) == control and start_of(plus, models) == start_of(control, models) == start
    assert f"{plus}: " in answer.out and f"{control}: " in answer.out
    first = report["histories"][start][0]
    # The features of a new network are short, so the classifier starts at chance: ln 4 for four people. They are a
    # little longer with batch normalisation, which the small recipes use.
    assert first["step"] == 1 and first["loss"] == pytest.approx(math.log(4), abs=0.7 if "small" in name else 0.3)
    tuned = report["histories"][plus][0]
    assert 0.3 < tuned["energy"] < 5  # f_2 of four nearly orthogonal directions is near 1/2
    assert report["published"] == [] and report["title"] == "Verification on lfw (not LFW's pairs)"
    page = (tmp_path / "runs" / name / "report.html").read_text()
    assert not re.search(r"published:|6,000|on LFW", page), "these pairs are not LFW's"


def test_the_lfw_recipe_verifies_a_model(faces: Path, tmp_path: Path, sfplus: Callable) -> None:  # type: ignore[type-arg]
    save_untrained(tmp_path / "model")
    answer = sfplus(
        "verify", faces / "lfw", faces / "pairs.txt", "--model", tmp_path / "model", "--workspace", tmp_path
    )
    assert answer.code == 0, answer.err
    assert "model: " in answer.out and (tmp_path / "runs/lfw-not-lfws-pairs/report.html").is_file()
    again = sfplus("run", "lfw", f"embed.model={tmp_path / 'model'}", f"verify.photos={faces / 'lfw'}",
                   f"verify.pairs={faces / 'pairs.txt'}", "--until", "verify", "--workspace", tmp_path)  # fmt: skip
    assert again.err.count("fresh") == 4
