"""`sfplus convert`, and models written by older versions."""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import pytest
import safetensors.torch
import torch
from models import crops, network
from slow_cases import slow

from sfplus.errors import SfplusError
from sfplus.io.resources import shipped_folder
from sfplus.networks import create
from sfplus.networks.normalize import normalize_crops
from sfplus.weights.convert import convert
from sfplus.weights.loading import create_network, load_model
from sfplus.weights.model_folder import save_model

FIXTURES = Path(__file__).parent / "fixtures"
CONFIG: dict[str, Any] = {
    "network": "sphereface4", "feature_size": 6, "width": 0.05, "template": "sphereface-112x96", "people": 5,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    head = torch.nn.Linear(6, 5, bias=False)
    save_model(tmp_path / "model", network("sphereface4", 0.05, 6), CONFIG, head=head)
    return tmp_path / "model"


def state(path: Path) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_model(path)[0].state_dict().items()}


@pytest.mark.parametrize("version", sorted(path.name for path in FIXTURES.iterdir()))
@pytest.mark.parametrize("file", ["folder", "folder/model.safetensors", "model.caffemodel", "model.onnx"])
def test_models_of_older_versions_keep_loading(version: str, file: str) -> None:
    loaded, config = load_model(FIXTURES / version / file)
    assert config["network"] == "sphereface4" and config["feature_size"] == 2
    expected = torch.tensor(json.loads((FIXTURES / version / "features.json").read_text()))
    with torch.inference_mode():
        torch.testing.assert_close(loaded(normalize_crops(torch.from_numpy(crops(2)))), expected, rtol=1e-4, atol=1e-5)


def test_the_shipped_model_keeps_loading() -> None:
    folder = shipped_folder("pretrained") / "sphereface10-distilled"
    loaded, _ = load_model(folder)
    network = create_network("sphereface10", folder, width=0.375, feature_size=128, block="modern", batch_norm=True)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.slow
def test_chains_of_conversions_are_exact(folder: Path, tmp_path: Path, sfplus: Callable[..., Any]) -> None:
    chain = ["model", "a.caffemodel", "b", "c.onnx", "d", "e.caffemodel"]
    for source, target in itertools.pairwise(chain):
        answer = sfplus("convert", tmp_path / source, tmp_path / target)
        assert answer.code == 0 and not answer.err, answer.err
        assert answer.out.startswith("sphereface4: 6 features, 112x96 crops") and str(tmp_path / target) in answer.out
        assert ("onnxruntime agrees with torch" in answer.out) == (target == "c.onnx")
    assert all(state(tmp_path / name) == state(folder) for name in chain[1:])
    assert (tmp_path / "a.prototxt").read_text().replace('"a"', '"e"') == (tmp_path / "e.prototxt").read_text()
    cv2.dnn.readNetFromCaffe(str(tmp_path / "e.prototxt"), str(tmp_path / "e.caffemodel"))
    heads = [safetensors.torch.load_file(tmp_path / name / "head.safetensors")["weight"] for name in ("model", "b")]
    assert torch.equal(*heads), "Caffe files keep the classifier"
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    digest = sha256((tmp_path / "a.caffemodel").read_bytes()).hexdigest()
    assert config["provenance"] == {"file": "a.caffemodel", "layout": "caffe", "sha256": digest}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*chain, "a.prototxt", "e.prototxt"])


def test_a_safetensors_file_needs_no_config(folder: Path, tmp_path: Path, sfplus: Callable[..., Any]) -> None:
    (folder / "model.safetensors").rename(tmp_path / "x.safetensors")
    assert sfplus("convert", tmp_path / "x.safetensors", tmp_path / "y").code == 0
    assert json.loads((tmp_path / "y" / "config.json").read_text())["network"] == "sphereface4"


@pytest.mark.parametrize("target", ["x.onnx", "x.caffemodel", "x"])
@pytest.mark.parametrize("existing", ["file", "folder", "dangling link"])
def test_existing_targets_are_not_overwritten(
    target: str, existing: str, folder: Path, tmp_path: Path, sfplus: Callable[..., Any]
) -> None:
    path = tmp_path / target
    if existing == "folder":
        path.mkdir()
    elif existing == "file":
        path.write_text("mine")
    else:
        path.symlink_to("nowhere")
    answer = sfplus("convert", folder, path)
    assert answer.code == 2 and "already exists; remove it, or choose another name" in answer.err
    assert existing != "file" or path.read_text() == "mine"


def test_an_existing_prototxt_is_not_overwritten(folder: Path, sfplus: Callable[..., Any]) -> None:
    path = folder.with_name("x.prototxt")
    path.write_text("mine")
    answer = sfplus("convert", folder, path.with_suffix(".caffemodel"))
    assert answer.code == 2 and "x.prototxt: already exists" in answer.err and path.read_text() == "mine"


def test_a_run_that_was_killed_between_its_two_files_is_repeated(folder: Path, sfplus: Callable[..., Any]) -> None:
    target = folder.with_name("x.caffemodel")
    assert sfplus("convert", folder, target).code == 0
    files = {path: path.read_bytes() for path in (target, target.with_suffix(".prototxt"))}
    target.unlink()
    assert sfplus("convert", folder, target).code == 0
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.parametrize("target", ["out", "out.caffemodel", slow("out.onnx")])
def test_a_full_disk_is_one_line_and_leaves_nothing_behind(target: str, folder: Path) -> None:
    """Also where the second of two files does not fit."""
    before, limits = sorted(folder.parent.rglob("*")), resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (0, 8_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            with pytest.raises(SfplusError, match="cannot be written: File too large"):
                convert(folder, folder.with_name(target))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert sorted(folder.parent.rglob("*")) == before


KILLED = """
import os, sys
from pathlib import Path
from sfplus.io.files import atomic_file, atomic_folder

with atomic_folder(Path(sys.argv[1])) as folder, atomic_file(folder / "config.json") as file:
    file.write_text("{")
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("target", ["out", "out.caffemodel", slow("out.onnx")])
def test_the_next_run_deletes_what_a_killed_one_left(target: str, folder: Path, sfplus: Callable[..., Any]) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(folder.with_name(target))], check=False)
    assert len([path for path in folder.parent.iterdir() if path.name.startswith(".")]) == 1
    assert sfplus("convert", folder, folder.with_name(target)).code == 0
    assert not [path for path in folder.parent.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["missing", "out"], 2, "there is no model 'missing'"),
        (["missing.caffemodel", "out"], 2, "no such file"),
        (["missing.pth", "out"], 2, "no such file"),
        (["model", "out.pth"], 2, ".pth files are not written"),
        (["model", "out.safetensors"], 2, "give a folder"),
        (["model/config.json", "out"], 2, "has a format that cannot be read"),
        (["model", "out", "--network", "sphereface20"], 2, "its config says sphereface4, not sphereface20"),
        (["model", "out", "--block", "modern"], 2, "its config says original, not modern"),
        (["model", "out", "--network", "zzz"], 2, "use one of sphereface4"),
        (["model"], 2, "Missing argument 'OUT'"),
        (["timm", "out.caffemodel"], 1, "only SphereFace networks can be written as .caffemodel"),
    ],
)
def test_failures_exit_with_a_message_and_leave_nothing_behind(
    words: list[str], code: int, message: str, folder: Path, sfplus: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    if words[0] == "timm":
        net = create("timm:resnet10t", feature_size=4)
        save_model(Path("timm"), net, {"network": "timm:resnet10t", "feature_size": 4, "width": 1.0})
    before = sorted(folder.parent.rglob("*"))
    answer = sfplus("convert", *words)
    assert answer.code == code and message in answer.err, answer.err
    assert sorted(folder.parent.rglob("*")) == before, "nothing is left behind"


def test_help_contains_an_example(sfplus: Callable[..., Any]) -> None:
    assert "Example: sfplus convert sphereface_model.caffemodel sphereface20" in sfplus("convert", "--help").out


def test_a_failed_write_leaves_nothing_behind(
    folder: Path, sfplus: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    before = sorted(folder.parent.rglob("*"))
    for target in ("out", "out.caffemodel"):
        answer = sfplus("convert", folder, folder.with_name(target))
        assert answer.code == 1 and "No space left" in answer.err
    assert sorted(folder.parent.rglob("*")) == before


def test_a_model_is_converted_by_its_name(sfplus: Callable[..., Any], tmp_path: Path) -> None:
    answer = sfplus("convert", "sphereface10-distilled", tmp_path / "small.caffemodel")
    assert answer.code == 0 and answer.out.startswith("sphereface10: 128 features"), answer.err
    answer = sfplus("convert", "sphereface10-distiled", tmp_path / "other")
    assert answer.code == 2 and "did you mean 'sphereface10-distilled'" in answer.err
