"""The parts of the guide about own code, in a recipe from photos to verdict, and in a recipe for images."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OWN = [
    "train.network=my_parts:small", "train.network_options={channels: 4}", "train.width=1",
    "train.head={name: my_parts:Cosine, scale: 8}", "finetune.head={name: my_parts:Cosine}",
    "finetune.energy={mode: my_parts:Spread, power: 1, weight: 0.1}",
]  # fmt: skip
IMAGES = """classify:
  data: {name: "my_parts:Stripes", options: {count: 40}}
  network: cnn6
  width: 2
  energy: {mode: "sfplus.hypersphere:HypersphericalEnergy", weight: 0.01, power: 0}
  max_iter: 4
  batch_size: 8
  log_every: 2
  test_every: 4
  steps: []
"""


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The module of the guide, in the current folder."""
    guide = (ROOT / "docs" / "own-code.md").read_text("utf-8")
    file = tmp_path / "my_parts.py"
    file.write_text("\n\n".join(re.findall(r"^```python\n(.*?)^```", guide, re.S | re.M)))
    monkeypatch.chdir(tmp_path)
    yield file
    sys.modules.pop("my_parts", None)


@pytest.mark.slow
def test_a_recipe_with_own_network_head_and_regulariser(
    parts: Path, tiny: Path, tmp_path: Path, sfplus: Callable
) -> None:
    answer = sfplus("run", tiny, *OWN)
    assert answer.code == 0, answer.err
    (folder,) = Path("data/cache/finetune").glob("*/")
    config = json.loads((folder / "config.json").read_text())
    assert config["network"] == "my_parts:small" and config["network_options"] == {"channels": 4}
    assert config["head"] == {"name": "my_parts:Cosine"} and config["energy"]["mode"] == "my_parts:Spread"
    statuses = sfplus("status", tiny, *OWN).out
    assert statuses.count("fresh") == len(statuses.splitlines())
    photos = sorted(Path("data/cache/sample").rglob("*.jpg"))[:2]
    refused = sfplus("compare", *photos, "--model", folder)
    assert refused.code == 2 and "its network is code, my_parts:small, which only you can allow to run" in refused.err
    assert sfplus("compare", *photos, "--model", folder, "--network", "my_parts:small").code == 0
    assert sfplus("convert", folder, "model.onnx", "--network", "my_parts:small").code == 0
    exported = sfplus("export", tiny, "exported", *OWN)
    assert exported.code == 0, exported.err
    parts.write_text(parts.read_text() + "# changed\n")
    again = sfplus("run", tiny, *OWN)  # this process has imported the module
    assert again.code == 2 and "my_parts.py: was changed since it was imported; run the command again" in again.err
    sys.modules.pop("my_parts")  # as in a new process
    statuses = sfplus("status", tiny, *OWN).out
    assert re.search(r"^train +stale +input head changed, input network changed$", statuses, re.M)
    parts.unlink()
    converted = sfplus("compare", *photos, "--model", "model.onnx")
    assert converted.code == 0, converted.err


def test_a_recipe_with_own_images(parts: Path, tmp_path: Path, sfplus: Callable) -> None:
    (tmp_path / "stripes.yaml").write_text(IMAGES)
    answer = sfplus("run", "stripes.yaml")
    assert answer.code == 0, answer.err
    (manifest,) = (json.loads(file.read_bytes()) for file in Path("data/cache/classify").glob("*/manifest.json"))
    assert manifest["counts"]["train_images"] == manifest["counts"]["test_images"] == 40
    parts.write_text(parts.read_text().replace("(0, 128,", "(0, 64,"))
    sys.modules.pop("my_parts")
    assert "stale" in sfplus("status", "stripes.yaml").out
