"""JSON files of a declared type: values, and one line for each kind of damage."""

import os

import pytest
from pydantic import BaseModel, FiniteFloat

from sfplus.errors import ArtefactError, WeightsError
from sfplus.io.json_files import parse_json, read_json


class Example(BaseModel, strict=True):
    name: str
    mean: FiniteFloat = 0.0


def test_reads_values_of_the_type(tmp_path):
    file = tmp_path / "example.json"
    file.write_text('{"name": "a", "mean": 2.5}')
    assert read_json(file, Example, remedy="run again") == Example(name="a", mean=2.5)
    assert read_json(file, dict, remedy="run again") == {"name": "a", "mean": 2.5}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Expecting value"),
        (b"\0" * 50, "is damaged"),
        (b'{"name": ', "Expecting value"),
        (b"\xff\xfe\xfa", "codec"),
        (b"[]", "valid dictionary"),
        (b"null", "valid dictionary"),
        (b"{}", "name: Field required"),
        (b'{"name": 3}', "name: Input should be a valid string"),
        (b'{"name": "a", "mean": NaN}', "mean: Input should be a finite number"),
        (b'{"name": "a", "mean": 1e999}', "mean: Input should be a finite number"),
        (b'{"name": "a", "mean": "1"}', "mean: Input should be a valid number"),
        (b'{"name": "a", "mean": ' + b"1" * 5000 + b"}", "digits"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"name": ' * 100_000, "nested too deeply"),
    ],
)
def test_damage_is_one_line(data, reason, tmp_path):
    file = tmp_path / "example.json"
    file.write_bytes(data)
    with pytest.raises(WeightsError) as caught:
        read_json(file, Example, remedy="get it again", error=WeightsError)
    text = str(caught.value)
    assert text.startswith(f"{file}: is damaged (")
    assert reason in text
    assert text.endswith("; get it again")
    assert "\n" not in text
    assert len(text) < len(str(file)) + 300


def test_unreadable_files(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("missing", "No such file"),
        (".", "Is a directory"),
        ("pipe", "not a regular"),
        ("\0", "null"),
    ):
        with pytest.raises(ArtefactError, match=reason):
            read_json(tmp_path / name, dict, remedy="run again")
    monkeypatch.setenv("SFPLUS_MAX_JSON_BYTES", "3")
    (tmp_path / "long.json").write_text('{"a": 1}')
    with pytest.raises(ArtefactError, match=r"has 8 bytes, more than the limit of 3"):
        read_json(tmp_path / "long.json", dict, remedy="run again")


def test_the_message_names_the_part_of_a_file():
    with pytest.raises(ArtefactError, match=r"^metadata of m\.onnx: is damaged"):
        parse_json("{", dict, where="metadata of m.onnx", remedy="export it again")
