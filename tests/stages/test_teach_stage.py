"""The stage `teach`: every kind of teacher, packs, resuming after a kill, and teachers that cannot be used."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from result_files import read_parquet
from teacher_models import align_artefact, colour_network, random_crops, write_onnx

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.cache import run_stage
from sfplus.artifacts.context import RunContext
from sfplus.artifacts.inputs import ModelInput, PackFolder, StageInput
from sfplus.artifacts.teacher_features import ABOUT, FEATURES, INDEX, TeacherFeatures
from sfplus.datasets.build_pack import build_pack
from sfplus.errors import SfplusError, UsageError, WeightsError
from sfplus.io.console import Console
from sfplus.networks.normalize import normalize_crops
from sfplus.recipes.settings.teacher import TeachSettings
from sfplus.weights.convert import convert
from sfplus.weights.find_model import ModelSource
from sfplus.weights.model_folder import save_model

COLOURS = ModelSource("teacher_models:colour_network", input="sphereface")


def teach(workspace: Path, crops: StageInput, source: ModelSource = COLOURS, **settings: Any) -> Artefact:
    context = RunContext(workspace, Console(quiet=True), "cpu")
    chosen = TeachSettings(**settings)
    return run_stage(chosen.stage, chosen, {"crops": crops, "model": ModelInput(source)}, context)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    from sfplus.networks import create

    torch.manual_seed(0)
    return create("sphereface4", feature_size=8, width=0.125).eval()


@pytest.mark.parametrize("kind", ["folder", ".onnx", ".caffemodel", ".pt", "function"])
def test_every_kind_of_model_can_be_the_teacher(kind: str, network: torch.nn.Module, tmp_path: Path) -> None:
    """Compare with the network itself, on crops and mirror images."""
    folder = tmp_path / "model"
    config = {"network": "sphereface4", "feature_size": 8, "width": 0.125, "template": "sphereface-112x96"}
    save_model(folder, network, config)
    file, expected = str(tmp_path / f"model{kind}"), network
    if kind == "folder":
        source = ModelSource(str(folder))
    elif kind == "function":
        source, expected = COLOURS, colour_network()
    elif kind == ".pt":
        torch.save(network.state_dict(), file)
        source = ModelSource(file, "sphereface4")
    elif kind == ".caffemodel":
        convert(folder, Path(file))
        source = ModelSource(file)
    else:
        pytest.importorskip("onnxruntime")
        source = ModelSource(str(write_onnx(Path(file))), input="sphereface")
        expected = lambda x: x.mean((2, 3))  # noqa: E731
    crops = random_crops(5)
    artefact = teach(tmp_path / "work", align_artefact(tmp_path / "crops", crops), source)
    features = np.load(artefact.folder / FEATURES)
    if kind.startswith("."):
        about = json.loads((artefact.folder / ABOUT).read_text())
        assert about["sha256"] == hashlib.sha256(Path(file).read_bytes()).hexdigest()
    assert features.dtype == np.float16 and read_parquet(artefact.folder / INDEX)["crop"] == list(crops)
    pixels = torch.from_numpy(np.stack(list(crops.values())))
    with torch.inference_mode():
        for side, images in enumerate((pixels, pixels.flip(2))):
            wanted = torch.nn.functional.normalize(expected(normalize_crops(images)))
            np.testing.assert_allclose(features[:, side].astype(np.float32), wanted, atol=1e-3)


def test_crops_of_a_pack_have_the_features_of_their_files(tmp_path: Path) -> None:
    crops = random_crops(5)
    files = align_artefact(tmp_path / "crops", crops)
    build_pack(files.folder / "crops", tmp_path / "pack", Console(quiet=True))
    pack = PackFolder(tmp_path / "pack")
    first, second = teach(tmp_path / "work", files), teach(tmp_path / "work", pack, mirror=False)
    rows = [f"person {label}/{number}.png" for label in (0, 1) for number in range(label, 5, 2)]
    one = TeacherFeatures(first, files, rows)
    two = TeacherFeatures(second, pack, [str(row) for row in range(5)])
    assert two.size == one.size == 48 and np.load(second.folder / FEATURES).shape == (5, 1, 48)
    table = np.load(first.folder / FEATURES)[[list(crops).index(name) for name in rows], 0]
    np.testing.assert_allclose(two.batch(np.arange(5)), table, atol=1e-3)


def test_the_features_are_computed_once_for_a_teacher_and_its_crops(tmp_path: Path) -> None:
    crops = align_artefact(tmp_path / "crops", random_crops(3))
    first = teach(tmp_path / "work", crops)
    again = ModelSource("teacher_models:colour_network", input="template=sphereface-112x96")
    assert teach(tmp_path / "work", crops).folder == first.folder
    assert teach(tmp_path / "work", crops, again).folder != first.folder, "another description of the input"
    other = align_artefact(tmp_path / "other", dict(list(random_crops(3).items())[:2]))
    assert teach(tmp_path / "work", other).folder != first.folder


@pytest.mark.parametrize(
    ("network", "message"),
    [("nan_network", "computes features that are not finite numbers"), ("zero_network", "a feature of length 0")],
)
def test_crops_without_a_direction_are_named(network: str, message: str, tmp_path: Path) -> None:
    crops = random_crops(3)
    crops["person 1/1.png"] = np.full((112, 96, 3), 255, np.uint8)
    source = ModelSource(f"teacher_models:{network}", input="template=sphereface-112x96,scale=127.5")
    with pytest.raises(WeightsError, match=message):
        teach(tmp_path / "work", align_artefact(tmp_path / "crops", crops), source)
    assert not list((tmp_path / "work/cache/teach").glob("*/manifest.json"))


def test_crops_of_another_template_or_size_are_refused(tmp_path: Path) -> None:
    wide = ModelSource("teacher_models:colour_network", input="insightface")
    crops = align_artefact(tmp_path / "crops", random_crops(2))
    with pytest.raises(UsageError, match="follow sphereface-112x96, the teacher was trained on arcface-112x112"):
        teach(tmp_path / "work", crops, wide)
    build_pack(crops.folder / "crops", tmp_path / "pack", Console(quiet=True))
    with pytest.raises(UsageError, match="its crops are 112x96, the teacher takes 112x112; train on photos"):
        teach(tmp_path / "work", PackFolder(tmp_path / "pack"), wide)
    small = align_artefact(tmp_path / "small", random_crops(2, 100, 90))
    with pytest.raises(SfplusError, match=r"0.png: is 100x90 pixels, not 112x96"):
        teach(tmp_path / "work", small)


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
import sfplus.stages.teach as stage
from sfplus.artifacts.artefact import Artefact
from teacher_models import colour_network
from test_teach_stage import ModelSource, teach

def network():
    inner, log = colour_network(), Path("calls")
    def forward(x):
        if len(x) > 2 and "killed" in sys.argv[1]:  # not the two crops that every model is tried on
            log.write_text(log.read_text() + "x" if log.exists() else "x")
            if len(log.read_text()) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        return inner(x)
    return forward

if __name__ == "__main__":
    stage.PART = 4
    teach(Path(sys.argv[1]), Artefact.open(Path("crops")), ModelSource("killer:network", input="sphereface"))
"""


@pytest.mark.slow
def test_after_kill_9_the_rest_is_computed_with_the_same_bytes(tmp_path: Path) -> None:
    """The teacher kills its process in the second of three parts."""
    (tmp_path / "killer.py").write_text(SCRIPT)
    align_artefact(tmp_path / "crops", random_crops(10))
    tests = Path(__file__).parents[1]
    paths = [str(tmp_path), str(tests), str(tests / "stages"), str(tests.parent)]

    def run(workspace: str) -> int:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        words = [sys.executable, "killer.py", workspace]
        return subprocess.run(words, env=environment, cwd=tmp_path, check=False).returncode

    assert run("killed") == -9
    parts = sorted(tmp_path.glob("killed/cache/teach/*.parts/*.npy"))
    assert [part.name for part in parts] == ["000000.npy"]
    assert not list(tmp_path.glob("killed/cache/teach/*/manifest.json"))
    assert run("killed") == 0 and run("whole") == 0
    assert (tmp_path / "calls").read_text() == "xx" + "xx", "the first part is computed once"
    (killed,), (whole,) = (list(tmp_path.glob(f"{name}/cache/teach/*/{FEATURES}")) for name in ("killed", "whole"))
    assert killed.read_bytes() == whole.read_bytes()
    assert killed.parent.name == whole.parent.name and not list(tmp_path.glob("*/cache/teach/*.parts"))
