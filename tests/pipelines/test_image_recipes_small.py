"""Recipes for image classification: three steps on random images give the expected losses and regularisers."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from slow_cases import slow

from sfplus.recipes.load import find_recipe, load_recipe, small_settings

SMALL = ["classify.batch_size=8", "classify.max_iter=3", "classify.steps=[]", "classify.log_every=1",
         "classify.test_every=3", "classify.base_lr=0.01", "classify.warmup=0"]  # fmt: skip
NARROW = ["classify.width=4"]
ANGLES = ["energy.half_space=true", "energy.power=a2"]


@pytest.fixture(scope="module")
def image_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of random images in four classes, by the side of the images, and a page beside them as in cyizhuo's."""
    folders, random = {}, np.random.default_rng(0)
    for side in (28, 32, 40):
        folders[side] = tmp_path_factory.mktemp(f"side{side}")
        (folders[side] / "README.md").write_text("the images of each class are in a folder")
        for split, label in ((split, label) for split in ("train", "test") for label in "0123"):
            folder = folders[side] / split / label
            folder.mkdir(parents=True)
            for number in range(4):
                Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folders


@pytest.mark.parametrize(
    ("name", "side", "changes", "values"),
    [
        ("mhe-cifar100", 32, NARROW, [1.9986, 3.1935, 1.5430, -7.5574]),
        slow("mhe-cifar100", 32, [*NARROW, "energy.mode=none"], [1.9986, 3.1702, 1.5101, 0]),
        slow("mhe-cifar100", 32, [*NARROW, *ANGLES], [1.9986, 3.1808, 1.4937, 42.4909]),
        slow("mhe-cifar10", 32, NARROW, [1.9986, 3.1841, 1.5295, 5.5907]),
        slow("comhe-cifar100", 32, NARROW, [1.9986, 3.1807, 1.4935, 5.4674]),
        slow("comhe-cifar100", 32, [*NARROW, "energy.mode=comhe-angle"], [1.9986, 3.1777, 1.4624, 5.5615]),
        slow("comhe-cifar100", 32, [*NARROW, "energy.mode=comhe-adversarial"], [1.9986, 3.1816, 1.4829, 5.5341]),
        slow("comhe-cifar100", 32, [*NARROW, "energy.mode=comhe-group"], [1.9986, 3.1794, 1.4911, 5.6684]),
        slow("spherenet-cifar10", 32, [*NARROW, "operator=none"], [2.6243, 6.7634, 6.2832, 0]),
        slow("spherenet-cifar10", 32, [*NARROW, "operator=linear"], [1.3806, 1.6736, 1.4453, 993.0645]),
        ("spherenet-cifar10", 32, NARROW, [1.3804, 1.8886, 1.4729, 1065.8231]),
        slow("spherenet-cifar10", 32, [*NARROW, "operator=sigmoid"], [1.3831, 2.3433, 1.5903, 1125.0422]),
        slow("spherenet-cifar10", 32, [*NARROW, "operator=learnable-sigmoid"], [1.3803, 1.7997, 1.4604, 1040.4493]),
        slow("spherenet-cifar10", 32, [*NARROW, "weight_norm=true"], [1.3805, 1.7057, 1.4413, 1006.3988]),
        slow("spherenet-cifar10", 32, [*NARROW, "rescale=true"], [1.3804, 2.0025, 1.5001, 1066.9691]),
        slow("sphere-resnet32-cifar10plus", 32, NARROW, [1.1736, 2.3694, 1.7028, 218.5508]),
        slow("orthonormal-cifar100", 32, NARROW, [1.9986, 3.1702, 1.5101, 715.1690]),
        ("mhe-imbalance-mnist", 28, NARROW, [1.5608, 1.7402, 0.7479, -2.7378]),
        slow("mhe-imagenet", 40, ["data.resize=40", "data.crop=32"], [1.5771, 1.8138, 1.5507, 10.4689]),
    ],
)
def test_the_losses_and_regularisers_are_the_expected_ones(
    name: str,
    side: int,
    changes: list[str],
    values: list[float],
    image_folders: dict[int, Path],
    tmp_path: Path,
    sfplus: Callable,  # type: ignore[type-arg]
) -> None:
    answer = sfplus("run", name, *SMALL, *changes, f"classify.data.root={image_folders[side]}", "--workspace", tmp_path)
    assert answer.code == 0, answer.err
    (history,) = (tmp_path / "cache" / "classify").glob("*/history.jsonl")
    rows = [json.loads(line) for line in history.read_text().splitlines()]
    terms = sum(value for key, value in rows[-1].items() if key.startswith(("energy.", "orthonormality")))
    assert [*(row["loss"] for row in rows), terms] == pytest.approx(values, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        # train.py, train_spherenet.py: learning rate, iterations at which it decreases, number of iterations.
        ("mhe-cifar100", (0.1, (20000, 30000, 37500), 42500)),
        ("mhe-cifar10", (0.1, (20000, 30000, 37500), 42500)),
        ("orthonormal-cifar100", (0.1, (20000, 30000, 37500), 42500)),
        ("comhe-cifar100", (0.1, (30000, 50000, 65000), 75000)),
        ("spherenet-cifar10", (1e-3, (34000, 54000), 64000)),
        ("sphere-resnet32-cifar10plus", (1e-3, (34000, 54000), 64000)),
    ],
)
def test_schedules_are_those_of_the_released_code(name: str, schedule: tuple[float, tuple[int, ...], int]) -> None:
    settings = load_recipe(find_recipe(name)).classify
    assert settings is not None
    assert (settings.base_lr, settings.steps, settings.max_iter) == schedule
    assert (settings.batch_size, settings.weight_decay, settings.label_smoothing, settings.offset) == (
        128, 5e-4, 0.01, 1e-4
    )  # fmt: skip
    assert settings.bn_momentum == pytest.approx(1 - 0.999)


@pytest.mark.parametrize(
    "name",
    ["mhe-cifar100", "mhe-cifar10", "comhe-cifar100", "spherenet-cifar10", "sphere-resnet32-cifar10plus",
     "orthonormal-cifar100"],
)  # fmt: skip
def test_the_schedule_of_the_small_size_is_proportional(name: str) -> None:
    path = find_recipe(name)
    small, full = load_recipe(path, small_settings(path)).classify, load_recipe(path).classify
    assert small is not None and full is not None and small.max_iter < full.max_iter
    shares = [(steps.steps, steps.max_iter) for steps in (small, full)]
    ratios = [[step / last for step in steps] for steps, last in shares]
    assert ratios[0] == pytest.approx(ratios[1], abs=0.01)


@pytest.mark.plots
@pytest.mark.slow
def test_a_sweep_plots_the_features_of_its_variants_side_by_side(
    image_folders: dict[int, Path],
    tmp_path: Path,
    sfplus: Callable,  # type: ignore[type-arg]
) -> None:
    overrides = [*SMALL, *NARROW, f"data.root={image_folders[28]}"]
    answer = sfplus("sweep", "mhe-imbalance-mnist", *overrides, "operator=none,cosine,linear", "--workspace", tmp_path)
    assert answer.code == 0, answer.err
    folder = tmp_path / "runs" / "mhe-imbalance-mnist-sweep"
    assert all("scarce" in (folder / f"sweep.{kind}").read_text() for kind in ("md", "html"))
    width, height = Image.open(folder / "plane.png").size
    assert width > 2 * height
