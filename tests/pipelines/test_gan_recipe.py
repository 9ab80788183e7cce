"""The recipe of MHE-GAN: three steps of each variant on random images give the expected losses."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfplus.recipes.load import find_recipe, load_recipe, small_settings

SMALL = [
    "classify.width=2", "classify.batch_size=4", "classify.max_iter=2", "classify.steps=[]", "classify.test_every=2",
    "classify.log_every=1", "generate.width=0.25", "generate.batch_size=8", "generate.max_iter=3",
    "generate.log_every=1", "generate.base_lr=0.003", "generate.scores.samples=8", "generate.scores.splits=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def random_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, random = tmp_path_factory.mktemp("random_images"), np.random.default_rng(0)
    for split, label in ((split, label) for split in ("train", "test") for label in "01"):
        (root / split / label).mkdir(parents=True)
        for number in range(6):
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / label / f"{number}.png")
    return root


LOSSES = {  # of generator and discriminator, by spectral normalisation; the released energies are too small to matter
    "true": ([0.6927, 0.6021, 0.6984], [1.3873, 1.4121, 1.3837]),
    "false": ([0.6931, 0.6857, 0.7010], [1.3863, 1.3863, 1.3837]),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spectral_norm", "energy", "mhe_loss"),
    [("true", "{}", 7.978e-6), ("true", "null", None), ("false", "{}", 7.978e-5), ("false", "null", None)],
)
def test_the_first_losses_are_the_expected_ones(
    spectral_norm: str,
    energy: str,
    mhe_loss: float | None,
    random_images: Path,
    tmp_path: Path,
    sfplus: Callable,  # type: ignore[type-arg]
) -> None:
    data = [f"{stage}.data.root={random_images}" for stage in ("classify", "generate")]
    data += [f"{stage}.data.name=folder" for stage in ("classify", "generate")]
    variant = [f"generate.spectral_norm={spectral_norm}", f"generate.energy={energy}"]
    answer = sfplus("run", "mhe-gan-cifar10", *SMALL, *variant, *data, "--workspace", tmp_path)
    assert answer.code == 0, answer.err
    (folder,) = (path.parent for path in (tmp_path / "cache" / "generate").glob("*/manifest.json"))
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    generator, discriminator = LOSSES[spectral_norm]
    assert [row["generator_loss"] for row in rows] == pytest.approx(generator, rel=2e-3)
    assert [row["discriminator_loss"] for row in rows] == pytest.approx(discriminator, rel=2e-3)
    assert rows[0]["mhe_loss"] == (mhe_loss and pytest.approx(mhe_loss, rel=1e-3))
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    assert {"surrogate_score", "surrogate_score_real", "surrogate_accuracy", "energy"} <= counts.keys()
    assert (folder / "samples.png").is_file() and (folder / "curves.png").is_file()


def test_the_small_size_only_shortens_and_narrows_the_published_run() -> None:
    path = find_recipe("mhe-gan-cifar10")
    small, full = load_recipe(path, small_settings(path)).generate, load_recipe(path).generate
    assert small is not None and full is not None
    changed = {name for name in type(full).model_fields if getattr(small, name) != getattr(full, name)}
    assert changed == {"width", "max_iter", "sample_every", "log_every", "checkpoint_every", "score_every", "scores"}
    assert (full.max_iter, full.batch_size, full.base_lr, full.n_dis) == (200_000, 64, 1e-4, 1)  # train.py
    assert (full.score_every, full.scores.samples, full.scores.splits) == (5000, 50_000, 10)
    assert (full.beta1, full.beta2, full.energy_weight) == (0.5, 0.999, 1e-7)
