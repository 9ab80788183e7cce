"""YAML of strangers: read within limits, or refused in one line."""

import time
from pathlib import Path

import pytest

from sfplus.errors import RecipeError
from sfplus.recipes.yaml_file import parse_yaml, read_text


def _doubled(levels: int, form: str = "[*a{0}, *a{0}]") -> str:
    """Return YAML whose size doubles with each line."""
    return "a0: &a0 {x: 1}\n" + "".join(f"a{i + 1}: &a{i + 1} {form.format(i)}\n" for i in range(levels))


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (_doubled(16), 0, "values, more than the limit of 100,000"),
        (_doubled(16, "{{l: *a{0}, r: *a{0}}}"), 0, "more than the limit"),
        (_doubled(8, "{{<<: [*a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}]}}"), 0, "more than the limit"),
        (_doubled(60), 0, "nested too deeply"),
        (_doubled(3000, "[*a{0}]"), 0, "nested too deeply"),
        ("a: &a " + "x" * 6000 + "\nb: [" + "*a," * 2000 + "]", 0, "more than the limit"),
        ("a: " + "[" * 30 + "]" * 30, 1, "nested too deeply"),
        ("[" * 600, 0, "nested too deeply"),
        ("a: &a\n  b: *a\n", 1, "contains itself"),
        ("a: &a [*a]\n", 1, "contains itself"),
        ("a: 1\na: 2\n", 2, "'a' is given twice"),
        ("b:\n  a: 1\n  a: 2\n", 3, "'a' is given twice"),
        ("1: a\n", 1, "the key '1' is not a name"),
        ("yes: a\n", 1, "the key 'yes' is not a name"),
        ("? [a]\n: 1\n", 1, "the key is not a name"),
        ("a: !!int\n", 1, "is damaged"),
        ("a: !!float\n", 1, "is damaged"),
        ("a: !!bool\n", 1, "is damaged"),
        ("a: !!binary aa\n", 1, "unknown tag"),
        ("a: !!set {a, b}\n", 1, "unknown tag"),
        ("a: !!omap [a: 1]\n", 1, "unknown tag"),
        ("a: !!timestamp\n", 1, "unknown tag"),
        ("a: !mine b\n", 1, "unknown tag !mine"),
        ("a: !!python/name:os.system b\n", 1, "unknown tag"),
        ("a: !!map [b]\n", 1, "expected a mapping"),
        ("a: " + "9" * 5000, 1, "a number of more than 40 characters"),
        ("a: 0x" + "f" * 5000, 1, "a number of more than 40 characters"),
        ("a: 1" + ":59" * 5000, 1, "a number of more than 40 characters"),
        ("a: 9223372036854775808", 1, "is larger than any setting"),
        ("a: 0xffffffffffffffffff", 1, "is larger than any setting"),
        ("a: 1.0e+999", 1, "is not a finite number"),
        ("a: .inf", 1, "is not a finite number"),
        ("a: -.Inf", 1, "is not a finite number"),
        ("a: .nan", 1, "is not a finite number"),
        ('a: "b\\0"', 1, "a character that is not allowed"),
        ('a: "\\ud800"', 1, "a character that is not allowed"),
        ('a: "\\UFFFFFFFF"', 0, "is damaged"),
        ("a: \x07", 0, "is not YAML"),
        ("a: 'b\n", 2, "is not YAML"),
        ("---\na: 1\n---\nb: 1\n", 3, "is not YAML"),
    ],
    ids=range(40),
)  # fmt: skip
def test_what_is_no_recipe_is_refused_at_once(text: str, line: int, reason: str) -> None:
    started = time.process_time()
    with pytest.raises(RecipeError, match=reason) as caught:
        parse_yaml(text, "r.yaml")
    assert time.process_time() - started < 5
    assert len(str(caught.value)) < 400 and str(caught.value).count("\n") == 0
    if line:
        assert caught.value.where in (f"r.yaml:{line}", "r.yaml")


def test_values_are_those_of_yaml() -> None:
    text = "a: &a {b: 1, c: 1.5, d: yes, e: ~, f: x}\ng: [*a, *a]\nh: {<<: *a, b: 2}\ni: 0x10\nj: 9223372036854775807\n"
    value, node = parse_yaml(text, "r.yaml")
    mapping = {"b": 1, "c": 1.5, "d": True, "e": None, "f": "x"}
    assert value == {
        "a": mapping, "g": [mapping, mapping], "h": mapping | {"b": 2}, "i": 16, "j": 2**63 - 1,
    }  # fmt: skip
    assert node is not None and node.start_mark.line == 0


def test_a_date_is_a_text() -> None:
    text = "a: 2024-01-01\nb: 2001-12-14t21:59:43.10-05:00\nc: 2024-99-99\n"
    assert [*parse_yaml(text, "r.yaml")[0].values()] == ["2024-01-01", "2001-12-14t21:59:43.10-05:00", "2024-99-99"]


def test_an_empty_text_has_no_value() -> None:
    assert parse_yaml("# nothing\n", "r.yaml") == (None, None)


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("#" * (65 << 10))
    with pytest.raises(RecipeError, match="SFPLUS_MAX_RECIPE_BYTES"):
        read_text(tmp_path / "r.yaml")
