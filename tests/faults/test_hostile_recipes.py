"""Recipes of strangers, through the commands that read recipes: one line each, at once, and nothing is run."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

_TRAIN = "train: {photos: p, network: sphereface4}\n"


def _doubled(levels: int) -> str:
    return "a0: &a0 {x: 1}\n" + "".join(f"a{i + 1}: &a{i + 1} {{l: *a{i}, r: *a{i}}}\n" for i in range(levels))


_RECIPES = (
    "", "null", "3", "[]", "abc", "2024-01-01", "2024-01-01: 1", "train: {photos: 2024-99-99}",
    _TRAIN + "report: {title: 2001-12-14t21:59:43.10-05:00}", _TRAIN + "small: {train.photos: 2024-01-01}",
    f"train: {{photos: p, max_iter: {'9' * 5000}}}", f"train: {{photos: p, max_iter: '{'9' * 5000}'}}",
    f"train: {{photos: p, max_iter: 0x{'f' * 5000}}}", f"train: {{photos: p, max_iter: 1{':59' * 5000}}}",
    f"{'9' * 5000}: 1", "train: {photos: p, base_lr: .inf}", "train: {photos: p, base_lr: 'nan'}",
    "train: {photos: p, base_lr: 1.0e+999}", "detect: {factor: 'nan'}\n" + _TRAIN,
    "train: !!int", "train: !!float", "train: !!bool", "train: !!timestamp", "train: !!binary", "train: !!set {a, b}",
    "train: !!omap [a: 1]", "train: !!str {a: 1}", "train: !x y", "! a", "train: !!python/name:os.system",
    "train: " + "[" * 500 + "]" * 500, "[" * 2000, "".join(" " * i + "a:\n" for i in range(400)), "- " * 5000,
    _doubled(12) + "train: *a12", _doubled(60), _TRAIN + "small:\n  " + _doubled(60).replace("\n", "\n  "),
    "train: &x\n  head: *x", "train: &x [*x]", "train: &x {<<: *x}", "train: [" + "1," * 20_000 + "]",
    "#" * (1 << 20), "k" * 60_000 + ": 1", "train: " + "v" * 60_000, _TRAIN + _TRAIN, "null: 1", "? [a]\n: 1",
    '"\\e[2J": 1', 'train: "\\e]0;x\\a\\nsame person"', 'train: {photos: "a\\0b", network: sphereface4}',
    'train: {photos: "a\\ud800", network: sphereface4}', 'train: "\\UFFFFFFFF"', "train: *x", "%", "@",
    "train:\n\tphotos: p",
    "train: {photos: p, exclude: /etc/passwd}", "train: {photos: p, exclude: /dev/zero}",
    "train: {photos: p, exclude: [[a]]}", "train: {photos: p, head: {name: [a]}}", "train: {photos: p, head: [1]}",
    "train: {photos: p, network: {a: 1}}", "train: {photos: p, network: 'timm:../../x'}",
    "train: {photos: p, steps: {a: 1}}",
    "align: {template: sphereface-99999999x99999999}\n" + _TRAIN, f"align: {{template: {'x' * 9000}}}\n" + _TRAIN,
    "sample: {people: 9000000000000000000}\ntrain: {network: sphereface4}", _TRAIN + "small: {'a=b': 1}",
    _TRAIN + "small: {1: 1}", _TRAIN + "small: x", _TRAIN + "report: {published: [1]}", "classify: {data: {name: x}}",
    'embed: {model: "a\\0"}\nverify: {photos: a, pairs: b}', f"train: {{photos: {'x' * 5000}, network: sphereface4}}",
    b"\xff\xfe\0", b"\0" * 100, bytes(range(256)), "train: ä".encode()[:-1],
)  # fmt: skip
_OVERRIDES = (
    f"train.max_iter={'9' * 5000}", f"train.max_iter=0x{'f' * 5000}", "train.head=[[[[[", "train.head=" + "[" * 3000,
    "train.photos=!!int", "train.photos=!!python/name:os.system", "train=!!set {a}", f"{'a' * 5000}=1", "=1", "..=",
    "train..=1",
    ".".join("a" * 2000) + "=1", 'train.photos="a\\0"', "\x1b[2J=1", "train=&x [*x]", "train=&x {a: *x}",
    "small={a: 1}",
    'report.title="\\ud800"', "detect.factor=.nan", "train.head={1: 2}", "train.head={a: 1, a: 2}",
    "train.exclude=/etc/passwd",
)  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [("recipes", "check"), ("run", "--small"), ("status",), ("sweep", "train.max_iter=1,2")],
    ids=" ".join,
)
def test_a_hostile_recipe_is_one_line(
    words: tuple[str, ...], sfplus: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFPLUS_HOME", str(tmp_path / "home"))
    file = tmp_path / "r.yaml"
    command, rest = ([*words], []) if words[0] == "recipes" else (list(words[:1]), list(words[1:]))
    workspace = [] if words[0] == "recipes" else ["--workspace", tmp_path / "data"]
    for recipe in _RECIPES:
        file.write_bytes(recipe if isinstance(recipe, bytes) else recipe.encode())
        _check(sfplus, [*command, file, *rest, *workspace], recipe)
    assert not (tmp_path / "data/cache").exists()


def test_a_hostile_override_is_one_line(sfplus: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFPLUS_HOME", str(tmp_path / "home"))
    (tmp_path / "r.yaml").write_text(_TRAIN)
    for override in _OVERRIDES:
        _check(sfplus, ["recipes", "check", tmp_path / "r.yaml", override], override)


def _check(sfplus: Callable, words: list[object], what: object) -> None:
    started = time.process_time()
    answer = sfplus(*words)
    shown = (repr(what)[:80], answer.code, answer.err[:500])
    assert "a mistake in sfplus" not in answer.err and answer.code in (0, 1, 2), shown
    if answer.code:
        assert answer.err.startswith("sfplus: ") and answer.err.count("\n") == 1 and len(answer.err) < 3200, shown
    assert time.process_time() - started < 10, shown
