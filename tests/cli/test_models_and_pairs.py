"""The commands of docs/models-and-pairs.md, run as they stand there."""

from __future__ import annotations

import json
import pickle
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageOps
from result_files import read_parquet
from safetensors.numpy import load_file, save_file
from slow_cases import mostly_slow
from untrained_models import save_untrained

from sfplus.datasets.pairs import draw_pairs, read_pairs, write_pairs
from sfplus.images import encode_image, list_photos
from sfplus.weights.caffe import CaffeModel, write_caffemodel
from sfplus.weights.convert import convert
from sfplus.weights.prototxt import read_prototxt

PAGE = Path(__file__).parents[2] / "docs" / "models-and-pairs.md"
ROWS = re.findall(r"^\| ([^|]+) \| `(sfplus [^`]+)` \|", PAGE.read_text("utf-8"), re.MULTILINE)

NETWORK = """
import torch

def create():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 8)).eval()

class ChannelsLast(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = create()

    def forward(self, x):
        return self.network(x.permute(0, 3, 1, 2))
"""
PROTOTXT = """
name: "face"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 112 dim: 96 } } }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { pool: AVE kernel_size: 16 stride: 16 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param { num_output: 8 } }
"""


@pytest.fixture(scope="module")
def folder(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files that the page names, of drawn people and networks without training."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(drawn, folder / "photos")
    write_pairs(folder / "pairs.txt", draw_pairs(list_photos(drawn), 2, 3, 0))
    (folder / "strangers").mkdir()
    for number, photo in enumerate(list_photos(drawn)[:3]):
        ImageOps.mirror(Image.open(drawn / photo)).save(folder / "strangers" / f"{number}.jpg")
    _write_models(folder)
    _write_pairs(folder)
    return folder


def _write_models(folder: Path) -> None:
    (folder / "my_network.py").write_text(NETWORK)
    scope: dict[str, Callable[[], torch.nn.Module]] = {}
    exec(NETWORK, scope)
    network, channels_last, crops = scope["create"](), scope["ChannelsLast"]().eval(), torch.rand(2, 3, 112, 112)
    torch.jit.script(network).save(folder / "scripted.pt")
    any_batch = ({0: torch.export.Dim("N")},)
    torch.export.save(torch.export.export(network, (crops,), dynamic_shapes=any_batch), folder / "exported.pt2")
    save_file({f"module.{key}": value.numpy() for key, value in network.state_dict().items()},
              folder / "weights.safetensors")  # fmt: skip
    for name, module, example in (
        ("arcface", network, crops), ("unusual", channels_last, torch.rand(2, 128, 128, 3))
    ):  # fmt: skip
        program = torch.onnx.export(module, (example,), dynamo=True, verbose=False, dynamic_shapes=any_batch)
        program.save(folder / f"{name}.onnx")
    save_untrained(folder / "my/model")
    convert(folder / "my/model", folder / "sphereface.caffemodel")
    (folder / "face.prototxt").write_text(PROTOTXT)
    rng = np.random.default_rng(0)
    blobs = [rng.normal(size=shape).astype(np.float32) for shape in ((8, 3 * 7 * 6), (8,))]
    write_caffemodel(folder / "face.caffemodel", CaffeModel(read_prototxt(folder / "face.prototxt"), {"fc": blobs}))


def _write_pairs(folder: Path) -> None:
    pairs = read_pairs(folder / "pairs.txt")
    rows = list(zip(pairs.left, pairs.right, pairs.same.tolist(), strict=True))
    lines = [f"{a};{b};{'same' if same else 'different'}" for a, b, same in rows]
    (folder / "pairs.csv").write_text("\n".join(["left;right;label", *lines]))
    short = [f"{a.split('/')[1]} {b.split('/')[1]} {int(same)}" for a, b, same in rows]
    (folder / "short-names.txt").write_text("\n".join(short))
    shutil.copytree(folder / "photos", folder / "set/photos")
    shutil.copy(folder / "pairs.txt", folder / "set/pairs.txt")
    rng = np.random.default_rng(0)
    images = [encode_image(rng.integers(0, 256, (112, 112, 3)).astype(np.uint8), ".png") for _ in range(24)]
    (folder / "agedb_30.bin").write_bytes(pickle.dumps((images, [True, False] * 6)))


@pytest.fixture
def features(folder: Path, sfplus: Callable) -> Path:
    """The crops of the photos, and their features in each format; written by the first test."""
    if (folder / "features.csv").exists():
        return folder
    assert sfplus("align", folder / "photos", folder / "crops").code == 0
    assert sfplus("embed", folder / "crops", folder / "embedded", "--crops", "--model", folder / "my/model").code == 0
    shutil.copy(folder / "embedded/features.safetensors", folder / "features.safetensors")
    shutil.copy(folder / "embedded/index.parquet", folder / "index.parquet")
    values = load_file(folder / "features.safetensors")["features"]
    names = read_parquet(folder / "index.parquet")["photo"]
    np.savez(folder / "features.npz", names=np.array(names), features=values)
    np.save(folder / "array.npy", values)
    (folder / "array.txt").write_text("\n".join(names))
    pq.write_table(pa.table({"name": names, "feature": list(values)}), folder / "features.parquet")
    rows = (",".join([name, *map(str, row)]) for name, row in zip(names, values, strict=True))
    (folder / "features.csv").write_text("\n".join(rows))
    return folder


def test_the_face_of_a_photo_can_be_chosen(features: Path, sfplus: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(features)
    answer = sfplus("verify", "photos", "pairs.txt", "--model", "my/model", "--choose", "largest")
    assert answer.code == 0, answer.err
    manifests = [json.loads(file.read_bytes()) for file in Path("data/cache/detect").glob("*/manifest.json")]
    assert "largest" in [manifest["settings"]["choose"] for manifest in manifests]
    assert sfplus("verify", "photos", "--model", "my/model", "--choose", "all").code == 2


def test_the_page_has_commands() -> None:
    assert len(ROWS) >= 25 and all(
        command.split()[1] in ("verify", "convert", "calibrate", "identify") for _, command in ROWS
    )


@pytest.mark.parametrize(("kind", "command"), mostly_slow(ROWS, ROWS[::4]), ids=[kind for kind, _ in ROWS])
def test_commands_work_as_documented(
    kind: str, command: str, features: Path, sfplus: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(features)
    monkeypatch.syspath_prepend(str(features))
    shutil.rmtree("data/runs", ignore_errors=True)
    words = shlex.split(command)[1:]
    answer = sfplus(*words)
    assert answer.code == 0, answer.err
    if words[0] == "verify":
        assert "(sphereface protocol, 12 pairs)" in answer.out
        (report,) = Path("data/runs").glob("*/report.json")
        assert len(json.loads(report.read_bytes())["results"]) == 1 + ("--against" in words)
    elif words[0] == "identify":
        (report,) = Path("data/runs").glob("*/report.json")
        (rates,) = json.loads(report.read_bytes())["identification"].values()
        rows = rates["rows"]
        assert [row["distractors"] for row in rows] == ([0, 3] if "--distractors" in words else [0])
    else:
        config = json.loads((Path(words[words.index("--out") + 1] if "--out" in words else words[-3]) / "config.json")
                            .read_bytes())  # fmt: skip
        assert config["template"] == "arcface-112x112" and ("verification" in config) == (words[0] == "calibrate")
