"""Messages about invalid recipes: where the mistake is, the reason and the remedy."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sfplus.errors import RecipeError, SfplusWarning
from sfplus.recipes.load import find_recipe, load_recipe
from sfplus.recipes.settings.detect import DetectSettings


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("train:\n  photos: p\n  netwrk: x\n", 3, "unknown key 'train.netwrk'; did you mean 'network'?"),
        ("trian: {}\n", 1, "unknown key 'trian'; did you mean 'train'?"),
        ("train:\n  photos: p\n  head:\n    m: 2\n    gama: 1\n", 5, "did you mean 'gamma'?"),
        ("train:\n  photos: p\n  zzzzz: 1\n", 3, "valid keys:"),
        ("train:\n  photos: p\n  max_iter: many\n", 3, "valid integer"),
        ("train:\n  photos: p\n\n\n  head: {m: 0}\n", 5, "greater than or equal to 1, not 0"),
        ("detect: {thresholds: [0.6, 0.7]}\n", 1, "thresholds"),
        ("detect: {choose: nearest}\n", 1, "'centre'"),
        ("train:\n  photos: p\n  momentum: .nan\n", 3, "finite"),
        ("align: {jpeg_quality: 98}\n", 1, "less than or equal to 95"),
    ],
)  # fmt: skip
def test_invalid_keys_and_values_are_reported_with_line_and_remedy(
    check_refused: Callable[[str, int, str], None], text: str, line: int, message: str
) -> None:
    check_refused(text, line, message)


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.parametrize(
    ("recipe", "overrides", "where", "message"),
    [
        ("mhe-imbalance-mnist", ["data.root=/x", "log_every=20", "test_every=50"], "test_every=50", "a multiple of"),
        ("mhe-imbalance-mnist", ["data.root=/x", "test_every=50"], "test_every=50", "a multiple of"),
        ("mhe-imbalance-mnist", ["data.rot=/x", "test_every=50"], "data.rot=/x", "did you mean 'root'"),
        ("mhe-cifar100", ["width=4", "energy.power=3", "seed=1"], "energy.power=3", "not 3"),
        ("demo", ["train.seed=1", "train.lr=3", "train.clip=1"], "train.lr=3", "unknown key 'train.lr'"),
        ("demo", ["train.head.m=-1", "train.head.name=arcface"], "train.head.m=-1", "greater than or equal to 0"),
        ("demo", ["train.batch_size=10", "train.seed=2", "train.accumulate=3"],
         "train.batch_size=10 train.accumulate=3", "cannot be computed in 3 equal passes"),
        ("demo", ["sample.people=9", "train.seed=1"], "sample.people=9", "leaves fewer than two people"),
        ("demo", ["train.head=3", "train.seed=1"], "train.head=3", "is given by keys"),
        ("demo", ["finetune.energy=3", "train.seed=1"], "finetune.energy=3", "is given by keys"),
        ("mhe-cifar100", ["energy=3", "seed=1"], "energy=3", "is given by keys"),
    ],
)  # fmt: skip
def test_the_override_that_causes_an_error_is_named(
    recipe: str, overrides: list[str], where: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        load_recipe(find_recipe(recipe), overrides)
    assert error.value.where == where and "\n" not in str(error.value)


def test_an_error_of_the_file_is_not_blamed_on_overrides(write_recipe: Callable[[str], Path]) -> None:
    path = write_recipe("train:\n  photos: p\n  batch_size: 0\n")
    with pytest.raises(RecipeError, match="greater than or equal to 1") as error:
        load_recipe(path, ["train.seed=1", "train.head.m=2"])
    assert error.value.where == f"{path}:3"


@pytest.mark.parametrize(
    ("overrides", "options"),
    [
        (["train.head.name=arcface"], {"scale": 64.0, "m": 0.5}),
        (["train.head.name=arcface", "train.head.m=0.4"], {"scale": 64.0, "m": 0.4}),
        (["train.head.m=0.4", "train.head.name=arcface"], {"scale": 64.0, "m": 0.4}),
        (["train.head.name=softmax"], {}),
        (["train.head.name='softmax'"], {}),
        (["train.head.name=my_module:Head", "train.head.depth=3"], {"depth": 3}),
    ],
)
def test_another_head_leaves_out_the_options_of_the_recipe(
    write_recipe: Callable[[str], Path], overrides: list[str], options: dict[str, object]
) -> None:
    path = write_recipe("train: {photos: p, head: {m: 2, gamma: 1}}\nverify: {photos: a, pairs: b}\n")
    with pytest.warns(
        SfplusWarning, match=r"^train.head: the options of asoftmax in the recipe are left out: m, gamma$"
    ):
        recipe = load_recipe(path, overrides)
    assert recipe.train and recipe.train.head.model_dump(exclude={"name"}) == options


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "overrides",
    [
        ["train.head.name=asoftmax"],
        ['train.head.name="asoftmax"'],  # as a small recipe and a sweep write it
        ["train.head.name= asoftmax"],
        ["train.head.m=3"],
        ["train.head={name: arcface}"],
    ],
)
def test_the_same_head_keeps_its_options(write_recipe: Callable[[str], Path], overrides: list[str]) -> None:
    path = write_recipe("train: {photos: p, head: {m: 2}}\nfinetune: {head: {m: 2}}\nverify: {photos: a, pairs: b}\n")
    recipe = load_recipe(path, overrides)
    assert recipe.finetune and recipe.finetune.head.model_dump()["m"] == 2


@pytest.mark.parametrize("detector", ["yunet", '"yunet"', "own:Class"])
def test_another_detector_leaves_out_the_settings_of_the_recipe_for_its_own_one(
    write_recipe: Callable[[str], Path], detector: str
) -> None:
    detect = "min_face: 30, thresholds: [0.5, 0.6, 0.7], factor: 0.85, mirror_landmarks: false"
    path = write_recipe(f"detect: {{{detect}}}\nembed: {{model: m}}\nverify: {{photos: a, pairs: b}}\n")
    message = r"^detect: the options of mtcnn in the recipe are left out: thresholds, mirror_landmarks$"
    with pytest.warns(SfplusWarning, match=message):
        recipe = load_recipe(path, [f"detect.detector={detector}"])
    assert recipe.detect == DetectSettings(detector=detector.strip('"'), min_face=30)


@pytest.mark.filterwarnings("error")
def test_settings_at_their_defaults_are_those_of_every_detector(write_recipe: Callable[[str], Path]) -> None:
    for recipe in ("lfw", "demo"):
        assert load_recipe(find_recipe(recipe), ["detect.detector=yunet"]).detect == DetectSettings(detector="yunet")
    path = write_recipe("detect: {thresholds: [0.5, 0.6, 0.7]}\nembed: {model: m}\nverify: {photos: a, pairs: b}\n")
    assert load_recipe(path, ['detect.detector="mtcnn"']).detect.thresholds == (0.5, 0.6, 0.7)


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["detect.detector=yunet", "detect.thresholds=[0.5, 0.6, 0.7]"], "thresholds: [0.5, 0.6, 0.7] is of mtcnn"),
        (["detect.factor=0.8", "detect.detector=yunet"], "factor: 0.8 is of mtcnn, not of yunet"),
        (["detect.mirror_landmarks=false", "detect.detector=own:Class"], "False is of mtcnn, not of own:Class"),
        (["detect.detector=own:Class", "detect.min_score=0.8"], "min_score: 0.8 is of yunet, not of own:Class"),
        (["detect.min_score=0.8"], "min_score: 0.8 is of yunet, not of mtcnn"),
    ],
)
def test_settings_of_another_detector_in_overrides_are_refused(
    write_recipe: Callable[[str], Path], overrides: list[str], message: str
) -> None:
    path = write_recipe("detect: {thresholds: [0.4, 0.6, 0.7]}\nembed: {model: m}\nverify: {photos: a, pairs: b}\n")
    with pytest.raises(RecipeError) as error:
        load_recipe(path, overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_an_own_regulariser_leaves_out_the_options_of_the_energy_but_keeps_the_weight(
    write_recipe: Callable[[str], Path],
) -> None:
    path = write_recipe(
        "train: {photos: p, energy: {mode: paper, power: 0, weight: 3}}\nverify: {photos: a, pairs: b}\n"
    )
    with pytest.warns(SfplusWarning, match=r"^train.energy: the options of paper in the recipe are left out: power$"):
        recipe = load_recipe(path, ["train.energy.mode=my_module:Energy"])
    assert recipe.train and recipe.train.energy
    assert recipe.train.energy.model_dump() == {"mode": "my_module:Energy", "weight": 3.0}
