from pathlib import Path

import pytest
import yaml

from sfplus.errors import RecipeError
from sfplus.recipes.load import find_recipe, header, load_recipe, recipe_names
from sfplus.recipes.recipe import Recipe

GOOD = "train:\n  photos: p\n  network: sphereface4\nverify: {photos: a, pairs: b}\n"


@pytest.fixture
def write(tmp_path: Path):
    def _write(text: str) -> Path:
        path = tmp_path / "r.yaml"
        path.write_text(text)
        return path

    return _write


def test_a_good_recipe(write) -> None:
    recipe = load_recipe(write(GOOD))
    assert recipe.train and recipe.train.network == "sphereface4" and recipe.train.photos == Path("p")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("train:\n  photos: p\n  netwrk: x\n", 3, "unknown key 'train.netwrk'; did you mean 'network'?"),
        ("trian: {}\n", 1, "unknown key 'trian'; did you mean 'train'?"),
        ("train:\n  photos: p\n  head:\n    m: 2\n    gama: 1\n", 5, "did you mean 'gamma'?"),
        ("train:\n  photos: p\n  zzzzz: 1\n", 3, "valid keys:"),
        ("train:\n  photos: p\n  max_iter: many\n", 3, "valid integer"),
        ("train:\n  photos: p\n\n\n  head: {m: 0}\n", 5, "greater than or equal to 1, not 0"),
        ("detect: {thresholds: [0.6, 0.7]}\n", 1, "thresholds"),
        ("detect: {choose: nearest}\n", 1, "'centre'"),
        ("a: [1\n", 2, "is not YAML"),
        ("- 1\n", 1, "it must hold stages as keys"),
        ("detect: {}\ndetect: {}\n", 2, "is given twice"),
        ("train:\n  photos: p\n  momentum: .nan\n", 3, "finite"),
        ("train: {}\n", 1, "train.photos is missing"),
        ("verify: {photos: a}\nembed: {model: m}\n", 1, "verify.pairs is missing"),
        ("verify: {photos: a, pairs: b}\n", 1, "embed.model is missing"),
        ("finetune: {photos: a}\n", 1, "finetune.model is missing"),
        ("sample: {people: 9, verify_people: 8}\n", 1, "fewer than two people to train on"),
        ("train: {photos: p, evaluate_every: 100}\n", 1, "evaluate_every needs held-out pairs"),
        ("align: {template: arcface-56x56}\ntrain: {photos: p}\n", 1, "or arcface-112x112 crops"),
        ("align: {jpeg_quality: 98}\n", 1, "less than or equal to 95"),
        ("train: &x\n  head: *x\n", 1, "contains itself"),
    ],
)  # fmt: skip
def test_faults_name_line_and_remedy(write, text: str, line: int, words: str) -> None:
    path = write(text)
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert words in str(error.value) and error.value.where == f"{path}:{line}" and "\n" not in str(error.value)


def test_tags_that_run_code_are_refused(write) -> None:
    with pytest.raises(RecipeError, match="is not YAML"):
        load_recipe(write("train: !!python/object/apply:os.system ['true']\n"))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "r.yaml")


def test_overrides(write) -> None:
    recipe = load_recipe(
        write(GOOD), ["train.head.m=2", "detect.thresholds=[0.5, 0.6, 0.7]", "finetune.energy.power=0"]
    )
    assert recipe.train and recipe.train.head.m == 2 and recipe.detect.thresholds == (0.5, 0.6, 0.7)
    assert recipe.finetune and recipe.finetune.energy.power == 0


def test_overrides_of_what_yaml_shares(write) -> None:
    text = "train: {photos: p, head: &h {m: 4}}\nfinetune: {head: *h}\n"
    recipe = load_recipe(write(text), ["train.head.m=1"])
    assert recipe.train and recipe.finetune and (recipe.train.head.m, recipe.finetune.head.m) == (1, 4)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.head.m", "is not of the form key=value"),
        ("train.head.mm=2", "unknown key 'train.head.mm'"),
        ("train.head.gama=2", "did you mean 'gamma'"),
        ("train.head={name: arcface, scal: 2}", "did you mean 'scale'"),
        ("train.head={name: softmax, gamma: 2}", "valid keys: name"),
        ("train.head.name=arkface", "use arcface"),
        ("train.network.x=2", "holds a value, not keys"),
        ("train.head.m=[", "the value is not YAML"),
        ("train.head.m=x", "valid integer"),
    ],
)
def test_wrong_overrides_are_named(write, override: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words.replace("[", r"\[")) as error:
        load_recipe(write(GOOD), [override])
    assert error.value.where == override


def test_another_classifier_needs_keys_of_its_own(write) -> None:
    path = write("train: {photos: p, head: {m: 2, gamma: 1}}\n")
    with pytest.raises(RecipeError, match=r"different keys: train.head=\{name: \.\.\., scale, m\}"):
        load_recipe(path, ["train.head.name=arcface"])


def test_a_folder_of_the_same_name_does_not_hide_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lfw").mkdir()
    assert find_recipe("lfw").name == "lfw.yaml"


def test_recipes_are_found_by_name_or_path(write) -> None:
    assert find_recipe("demo").name == "demo.yaml" and find_recipe(str(write(GOOD))).name == "r.yaml"
    with pytest.raises(RecipeError, match="did you mean 'demo'"):
        find_recipe("dmo")
    with pytest.raises(RecipeError, match="no such recipe file"):
        find_recipe("nowhere.yaml")


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_are_right_and_open_with_a_comment(name: str) -> None:
    path = find_recipe(name)
    assert load_recipe(path) and header(path).endswith(".")


# What the prototxts say: m, base_lr, steps, lr_gamma, max_iter, gamma of lambda, start of its counter.
SOLVERS = [
    (1, 0.05, (7000,), 0.2, 11000, 0.12, 0),
    (2, 0.1, (5000,), 0.1, 8000, 0.11, 0),
    (3, 0.1, (4000, 9000), 0.1, 12000, 0.11, 0),
    (4, 0.01, (4000, 6000), 0.1, 8000, 0.12, 2000),
]


@pytest.mark.parametrize(("m", "lr", "steps", "lr_gamma", "max_iter", "gamma", "iteration"), SOLVERS)
def test_the_original_settings(
    m: int, lr: float, steps: tuple, lr_gamma: float, max_iter: int, gamma: float, iteration: int
) -> None:
    recipe = load_recipe(find_recipe(f"sphereface-plus-m{m}"))
    train, tune = recipe.train, recipe.finetune
    assert train and tune and recipe.detect.model_dump() == {
        "min_face": 20, "factor": 0.85, "thresholds": (0.6, 0.7, 0.9), "mirror_landmarks": True, "parity": "none",
        "choose": "centre",
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


def test_every_setting_is_described() -> None:
    def check(model: type) -> None:
        for name, field in model.model_fields.items():
            inner = [
                t for t in (field.annotation, *getattr(field.annotation, "__args__", ())) if hasattr(t, "model_fields")
            ]
            for kind in inner:
                check(kind)
            assert inner or field.description, f"{model.__name__}.{name}"

    check(Recipe)


def test_a_recipe_is_what_the_yaml_says(write) -> None:
    assert (
        yaml.safe_load(find_recipe("lfw").read_text())["embed"]["model"] == load_recipe(find_recipe("lfw")).embed.model
    )


@pytest.mark.parametrize("text", ["", "# nothing\n", "report: {title: x}\n", "detect: {min_face: 30}\n"])
def test_a_recipe_without_stages(text: str, write) -> None:
    with pytest.raises(RecipeError, match="has no stage to run; see: sfplus recipes show demo"):
        load_recipe(write(text))
