"""`--json`: one document on standard output, with the documented fields, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any

import pytest

from sfplus.cli.json_results import RESULTS, Check, StageStatus, print_result
from sfplus.cli.main import COMMANDS, load_command
from sfplus.cli.photo_results import FoundPhoto


def _commands() -> dict[str, Any]:
    """Return all commands by their names; those of groups as `models list`."""
    named: dict[str, Any] = {}
    for name in COMMANDS:
        command = load_command(name)
        inner = getattr(command, "commands", None) or {}
        named |= {f"{name} {part}": subcommand for part, subcommand in inner.items()} or {name: command}
    return named


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a value that was read from JSON has a declared type."""
    if dataclasses.is_dataclass(kind):
        types = typing.get_type_hints(kind)
        return set(value) == set(types) and all(_fits(value[key], types[key]) for key in types)
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, parts[1]) for item in value.values())
    if origin is UnionType:
        return any(_fits(value, part) for part in parts)
    return isinstance(value, {Path: str, float: (int, float)}.get(kind, kind))


def read(answer: Any, command: str) -> Any:
    """Return the document of an answer, after checking that its fields are those of the command."""
    document = json.loads(answer.out)
    kind, is_list = RESULTS[command]
    rows = document if is_list else [document]
    assert rows and all(_fits(row, kind) for row in rows), document
    return document


def test_the_commands_with_json_are_documented() -> None:
    with_json = {name for name, command in _commands().items() if any(p.name == "as_json" for p in command.params)}
    assert with_json == set(RESULTS)


@pytest.mark.parametrize("kind", dict.fromkeys(kind for kind, _ in RESULTS.values()), ids=lambda kind: kind.__name__)
def test_every_field_is_documented(kind: Any) -> None:
    for field in dataclasses.fields(kind):
        assert f"\n        {field.name}: " in (kind.__doc__ or ""), field.name


@pytest.mark.parametrize(
    "words",
    ["doctor", "models list", "models info sphereface20", "recipes list", "recipes keys train.head", "recipes keys",
     "recipes check demo", "status demo"],
)  # fmt: skip
def test_the_document_has_the_documented_fields(words: str, sfplus: Callable, tmp_path: Path) -> None:
    workspace = ["--workspace", tmp_path] if words.startswith("status") else []
    answer = sfplus(*words.split(), *workspace, "--json")
    command = " ".join(words.split()[: 2 if words.split()[0] in ("models", "recipes") else 1])
    document = read(answer, command)
    assert answer.err == "" and document
    if words == "recipes keys":
        assert {row["name"].partition(".")[0] for row in document} >= {"train", "verify", "classify"}


def test_a_comparison_has_the_numbers_that_people_see(sfplus: Callable, drawn: Path, tmp_path: Path) -> None:
    photos = sorted(drawn.rglob("*.jpg"))[:2]
    answer = sfplus("compare", *photos, "-o", tmp_path / "crops", "--json")
    result = read(answer, "compare")
    assert answer.code == 0 and result["same"] is (result["similarity"] > result["threshold"])
    assert [photo["photo"] for photo in result["photos"]] == [str(photo) for photo in photos]
    assert all(Path(photo["crop"]).is_file() for photo in result["photos"])
    text = sfplus("compare", *photos).out
    assert text.startswith(f"similarity {result['similarity']:.3f}: {'same' if result['same'] else 'different'} p")


def test_an_error_is_one_line_and_no_document(sfplus: Callable, drawn: Path) -> None:
    for words in (["compare", drawn, drawn], ["models", "info", "x"], ["status", "demo", "x=1"], ["find"]):
        answer = sfplus(*words, "--json")
        assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)


def test_any_name_and_number_becomes_json(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[2J\u202e\udcff\n"
    print_result([FoundPhoto(name, None, math.nan, math.inf)], ["text"], as_json=True)
    out = capsys.readouterr().out
    assert json.loads(out) == [{"photo": name, "face": None, "similarity": None, "probability": None}]
    assert out.isascii() and "\x1b" not in out
    print_result([StageStatus("a", "fresh", "", Path("b")), Check("a", True, "", "")], ["one", "two"], as_json=False)
    assert capsys.readouterr().out == "one\ntwo\n"


@pytest.mark.slow
def test_quiet_leaves_the_results_only(sfplus: Callable, drawn: Path, tmp_path: Path) -> None:
    loud = sfplus("group", drawn, tmp_path / "loud", "--json")
    quiet = sfplus("-q", "group", drawn, tmp_path / "quiet", "--json")
    assert "detect" in loud.err and quiet.err == ""
    counts = [{key: value for key, value in read(a, "group").items() if key != "page"} for a in (loud, quiet)]
    assert counts[0] == counts[1] and Path(read(quiet, "group")["page"]).is_file()
    found = sfplus("find", next(drawn.rglob("*.jpg")), tmp_path / "quiet", "-o", tmp_path / "found", "--json", "-q")
    photos = read(found, "find")["photos"]
    assert found.err == "" and photos == sorted(photos, key=lambda photo: -photo["similarity"])
