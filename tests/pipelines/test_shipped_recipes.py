"""Every shipped recipe runs small, from photos to report, and starts with the loss that its formula gives."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from sfplus.datasets.pairs import draw_pairs, write_pairs
from sfplus.datasets.portraits import write_portraits
from sfplus.images import list_photos

SMALL = ["detect.min_face=60", "detect.factor=0.7"]
SMALL_TRAIN = [
    "train.network=sphereface4", "train.width=0.125", "train.feature_size=16", "train.batch_size=8", "train.max_iter=3",
    "train.steps=[]", "train.log_every=1", "finetune.batch_size=8", "finetune.max_iter=3",
    "finetune.steps=[]", "finetune.log_every=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn photos in place of the sets that the recipes need."""
    root = tmp_path_factory.mktemp("faces")
    write_portraits(root / "train", 4, 3, 0)
    write_portraits(root / "lfw", 4, 3, 0, first_person=4)
    write_pairs(root / "pairs.txt", draw_pairs(list_photos(root / "lfw"), 2, 4, 0))
    return root


@pytest.mark.parametrize(
    "name",
    [f"sphereface-plus-{kind}" for kind in ("m1", "m2", "m3", "m4", "small")] + ["sphereface10-small"],
)
def test_training_recipes(name: str, faces: Path, tmp_path: Path, sfplus: Callable) -> None:  # type: ignore[type-arg]
    places = [
        f"train.photos={faces / 'train'}",
        f"verify.photos={faces / 'lfw'}",
        f"verify.pairs={faces / 'pairs.txt'}",
    ]
    answer = sfplus("run", name, *SMALL, *SMALL_TRAIN, *places, "--workspace", tmp_path)
    assert answer.code == 0, answer.err
    facts = json.loads((tmp_path / "runs" / name / "report.json").read_text())
    first = facts["histories"]["SphereFace"][0]
    # Features of a fresh network are short, so that the classifier starts at chance: ln 4 for four people. With batch
    # normalisation, which small recipes have, they are not quite as short.
    assert first["step"] == 1 and first["loss"] == pytest.approx(math.log(4), abs=0.7 if "small" in name else 0.3)
    tuned = facts["histories"]["SphereFace+"][0]
    assert 0.3 < tuned["energy"] < 5  # f_2 of four nearly orthogonal directions is near 1/2
    assert len(facts["published"]) == (2 if name.startswith("sphereface-plus-m") else 0)


def test_lfw_recipe(faces: Path, tmp_path: Path, sfplus: Callable) -> None:  # type: ignore[type-arg]
    import torch

    from sfplus.networks import create
    from sfplus.weights.model_folder import save_model

    torch.manual_seed(0)
    shape = {"network": "sphereface4", "feature_size": 16, "width": 0.125, "template": "sphereface-112x96"}
    save_model(tmp_path / "model", create("sphereface4", feature_size=16, width=0.125), shape)
    answer = sfplus(
        "verify", faces / "lfw", faces / "pairs.txt", "--model", tmp_path / "model", "--workspace", tmp_path
    )
    assert answer.code == 0, answer.err
    assert "verify/model: " in answer.out and (tmp_path / "runs/lfw/report.html").is_file()
    again = sfplus("run", "lfw", f"embed.model={tmp_path / 'model'}", f"verify.photos={faces / 'lfw'}",
                   f"verify.pairs={faces / 'pairs.txt'}", "--until", "verify", "--workspace", tmp_path)  # fmt: skip
    assert again.err.count("fresh") == 4
