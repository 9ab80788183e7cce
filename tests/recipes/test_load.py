"""Recipe files: finding, reading, overriding."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sfplus.errors import RecipeError
from sfplus.recipes.load import find_recipe, load_recipe, recipe_names, small_settings

VALID = "train:\n  photos: p\n  network: sphereface4\nverify: {photos: a, pairs: b}\n"


def test_a_valid_recipe_is_loaded(write_recipe: Callable[[str], Path]) -> None:
    recipe = load_recipe(write_recipe(VALID))
    assert recipe.train and recipe.train.network == "sphereface4" and recipe.train.photos == Path("p")


def test_yaml_tags_that_run_code_are_refused(write_recipe: Callable[[str], Path]) -> None:
    with pytest.raises(RecipeError, match="is not YAML"):
        load_recipe(write_recipe("train: !!python/object/apply:os.system ['true']\n"))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "r.yaml")


def test_overrides_change_values_and_add_keys(write_recipe: Callable[[str], Path]) -> None:
    recipe = load_recipe(
        write_recipe(VALID), ["train.head.m=2", "detect.thresholds=[0.5, 0.6, 0.7]", "finetune.energy.power=0"]
    )
    assert recipe.train and recipe.train.head.m == 2 and recipe.detect.thresholds == (0.5, 0.6, 0.7)
    assert recipe.finetune and recipe.finetune.energy.power == 0


def test_an_override_changes_only_one_use_of_a_yaml_anchor(write_recipe: Callable[[str], Path]) -> None:
    text = "train: {photos: p, head: &h {m: 4}}\nfinetune: {head: *h}\n"
    recipe = load_recipe(write_recipe(text), ["train.head.m=1"])
    assert recipe.train and recipe.finetune and (recipe.train.head.m, recipe.finetune.head.m) == (1, 4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.head.m", "is not of the form key=value"),
        ("train.head.mm=2", "unknown key 'train.head.mm'"),
        ("train.head.gama=2", "did you mean 'gamma'"),
        ("train.head={name: arcface, scal: 2}", "did you mean 'scale'"),
        ("train.head={name: softmax, gamma: 2}", "valid keys: name"),
        ("train.head.name=arkface", "did you mean 'arcface'"),
        ("train.network.x=2", "holds a value, not keys"),
        ("train.head.m=[", "the value is not YAML"),
        ("train.head.m=x", "valid integer"),
    ],
)
def test_invalid_overrides_are_named_in_the_message(
    write_recipe: Callable[[str], Path], override: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message.replace("[", r"\[")) as error:
        load_recipe(write_recipe(VALID), [override])
    assert error.value.where == override


def test_a_folder_of_the_same_name_does_not_hide_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lfw").mkdir()
    assert find_recipe("lfw").name == "lfw.yaml"


def test_recipes_are_found_by_name_or_path(write_recipe: Callable[[str], Path]) -> None:
    assert find_recipe("demo").name == "demo.yaml" and find_recipe(str(write_recipe(VALID))).name == "r.yaml"
    with pytest.raises(RecipeError, match="did you mean 'demo'"):
        find_recipe("dmo")
    with pytest.raises(RecipeError, match="no such recipe file"):
        find_recipe("nowhere.yaml")


def test_values_of_a_shipped_recipe_are_those_of_its_yaml() -> None:
    assert (
        yaml.safe_load(find_recipe("lfw").read_text())["embed"]["model"] == load_recipe(find_recipe("lfw")).embed.model
    )


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: [1\n", 2, "is not YAML"),
        ("- 1\n", 1, "it must hold stages as keys"),
        ("detect: {}\ndetect: {}\n", 2, "is given twice"),
        ("train: &x\n  head: *x\n", 1, "contains itself"),
    ],
)  # fmt: skip
def test_files_that_are_not_recipes_are_refused_with_their_line(
    check_refused: Callable[[str, int, str], None], text: str, line: int, message: str
) -> None:
    check_refused(text, line, message)


@pytest.mark.parametrize("name", [name for name in recipe_names() if load_recipe(find_recipe(name)).small is not None])
def test_the_small_sizes_of_shipped_recipes_are_valid(name: str) -> None:
    recipe = load_recipe(find_recipe(name), small_settings(find_recipe(name)))
    stage = recipe.generate or recipe.classify
    assert stage and stage.max_iter <= 8500
