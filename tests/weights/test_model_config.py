"""A config.json that anybody may have written: whatever it holds, it is a validated value or one line."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sfplus.errors import WeightsError
from sfplus.weights.model_config import encode_config, parse_config, read_config

CONFIG: dict[str, Any] = {"network": "sphereface4", "feature_size": 8, "width": 0.125, "template": "sphereface-112x96"}
VERIFICATION = {"threshold": 0.3, "accuracy": 0.9, "pairs": "200 pairs of pairs.txt", "protocol": "sphereface"}
PUBLISHED = {"lfw": 99.3, "runs": [99.3], "protocol": "sphereface", "source": "the paper"}
FORGED = "x\x1b[2J\nsimilarity 0.990: same person\u202e" + "   " * 99
FULL = CONFIG | {
    "verification": VERIFICATION | {"undetected": {"photos_left_out": ["a.jpg"]}}, "published": PUBLISHED,
    "name": "small", "licence": "MIT", "data": "portraits", "people": 3, "crops": 9, "head": None,
    "energy": {"weight": 1.0}, "provenance": {"file": "x"}, "teachers": [{"name": "t"}], "notes": ["kept", {"x": None}],
}  # fmt: skip


def write(folder: Path, config: Any) -> Path:
    file = folder / "config.json"
    file.write_text(config if isinstance(config, str) else json.dumps(config))
    return file


@pytest.mark.parametrize("config", [CONFIG, FULL, CONFIG | {"width": 1, "preprocessing": {"mean": [0], "scale": [1]}}])
def test_a_config_is_returned_as_it_is(config: dict[str, Any], tmp_path: Path) -> None:
    file = write(tmp_path, config)
    assert read_config(file) == parse_config(json.dumps(config), file) == config
    assert json.loads(encode_config(config, file)) == config


WRONG = [None, True, -1, math.nan, math.inf, 10**400, "x" * 100_000, [], {}, [[]], {"a": FORGED}]


@pytest.mark.slow
@pytest.mark.parametrize("key", [*FULL, "input", "block", "batch_norm", "preprocessing", "notes", "x" * 10_000])
def test_values_of_every_kind_are_a_value_or_one_line(key: str, tmp_path: Path) -> None:
    """Includes integers that are no float, and texts that would forge a line of the decision."""
    for value in [*WRONG, FORGED, "\ud800"]:
        _read_or_refuse(tmp_path, FULL | {key: value})
    for outer in ("verification", "published"):
        for inner in {**VERIFICATION, **PUBLISHED, "standard_error": 0.1}:
            for value in [*WRONG, FORGED]:
                _read_or_refuse(tmp_path, FULL | {outer: FULL[outer] | {inner: value}})


def _read_or_refuse(folder: Path, config: dict[str, Any]) -> None:
    try:
        read = read_config(write(folder, config))
    except WeightsError as error:
        assert "\n" not in str(error) and str(error).isprintable() and len(str(error)) < 600 and error.remedy
        return
    encode_config(read, folder / "config.json")
    shown = [read.get(key) for key in ("name", "licence", "data", "network", "template", "input", "block")]
    verification, published = read.get("verification") or {}, read.get("published") or {}
    shown += [verification.get(key) for key in ("pairs", "protocol")]
    shown += [published.get(key) for key in ("protocol", "source")]
    for text in [text for text in shown if isinstance(text, str)]:
        assert text.isprintable() and len(text) <= 300 and "  " not in text
    numbers = [verification.get(key, 0) for key in ("threshold", "accuracy", "standard_error")]
    assert all(abs(number) < 1e300 for number in [*numbers, published.get("lfw", 0), *published.get("runs", [])])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verification": VERIFICATION | {"threshold": math.nan}}, "verification.threshold: Input should be a finite"),
        ({"verification": VERIFICATION | {"threshold": 10**400}}, "verification.threshold"),
        ({"verification": VERIFICATION | {"accuracy": 2.0}}, "verification.accuracy: .* less than or equal to 1"),
        ({"verification": {"threshold": 0.3}}, "verification.accuracy: Field required"),
        ({"preprocessing": {"mean": [math.nan]}}, "not JSON compliant"),
        ({"preprocessing": {"mean": [1e308]}}, "mean is 1e.308"),
        ({"preprocessing": {"scale": [1e-300]}}, "scale 1e-300"),
        ({"preprocessing": {"scale": [10**400]}}, "scale is .1000"),
        ({"preprocessing": {"mean": [0.0] * 100_000}}, "mean is 0,0,0"),
        ({"preprocessing": {"colour": "rgb"}}, "the key preprocessing is not valid"),
        ({"notes": {"x": [math.inf]}}, "not JSON compliant"),
        ({"feature_size": 65_537}, "feature_size"),
        ({"network": "x" * 101}, "network: String should have at most 100 characters"),
    ],
)
def test_the_message_names_the_key(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        read_config(write(tmp_path, CONFIG | change))
    assert "config.json" in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text", ["", "[", "[]", '{"a":' * 100_000, "[" * 100_000, "\0", '{"people": ' + "9" * 5000 + "}"]
)
def test_other_texts_are_damaged(text: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"config.json: is damaged \(.*; get the model again"):
        read_config(write(tmp_path, text))


def test_the_size_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFPLUS_MAX_CONFIG_BYTES", "100")
    with pytest.raises(WeightsError, match=r"bytes, more than the limit of 100; .*set SFPLUS_MAX_CONFIG_BYTES="):
        read_config(write(tmp_path, FULL))


GIGANTIC = """
import json, resource, sys
from pathlib import Path
from sfplus.errors import SfplusError
from sfplus.weights.loading import load_model
from sfplus import Embedder

folder, before = Path(sys.argv[1]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
config = json.loads((folder / "config.json").read_text())
for change in json.loads(sys.argv[2]):
    (folder / "config.json").write_text(json.dumps(config | change))
    try:
        Embedder(folder, "cpu")
        print("loaded", change)
    except SfplusError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.slow
def test_a_gigantic_model_with_a_small_file_costs_no_memory(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    from untrained_models import save_untrained

    save_untrained(tmp_path, feature_size=8)
    changes: list[dict[str, Any]] = [
        {"template": "sphereface-9999x9999"},
        {"network": "timm:resnet10t", "width": 1.0, "template": "arcface-9999x9999"},
        *({"network": name, "width": 1.0} for name in ("timm:eva_giant_patch14_224", "timm:vit_gigantic_patch14_224",
                                                       "torchvision:vit_h_14", "torchvision:regnet_y_128gf")),
        {"network": "timm:resnet18", "width": 1.0, "feature_size": 65_536},
        {"network": "sphereface64", "width": 16.0, "input": "992x992", "feature_size": 65_536},
    ]  # fmt: skip
    command = [sys.executable, "-c", GIGANTIC, str(tmp_path), json.dumps(changes)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == len(changes) + 1 and "loaded" not in "".join(lines)
    assert "99,980,001 pixels, more than the limit" in lines[0] and "is larger than these weights" in lines[-2]
    assert int(lines[-1]) < 500, "MB"
