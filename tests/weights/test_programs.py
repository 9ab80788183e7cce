from __future__ import annotations

import io
import json
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from channel_means import ChannelMeans, SeveralOutputs, means_of
from safetensors.torch import save_file
from slow_cases import slow

from sfplus.embedder import Embedder
from sfplus.errors import SfplusError, UsageError, WeightsError
from sfplus.weights.convert import convert
from sfplus.weights.find_model import ModelSource
from sfplus.weights.loading import read_model
from sfplus.weights.programs import load_exported_program

CROPS = np.random.default_rng(0).integers(0, 256, (5, 112, 112, 3), dtype=np.uint8)
EXPECTED = means_of(CROPS, 127.5, 127.5) * [1, 2, 3]


def export(path: Path, network: torch.nn.Module | None = None) -> Path:
    batch = ({0: torch.export.Dim("N")},)
    program = torch.export.export(network or ChannelMeans(), (torch.zeros(2, 3, 112, 112),), dynamic_shapes=batch)
    torch.export.save(program, path)
    return path


@pytest.mark.parametrize(
    ("function", "input"),
    [
        ("channel_means:make", "insightface"),
        slow("channel_means:make_several", "insightface,output=feature"),
        slow("channel_means:make_double", "insightface"),
        ("channel_means:ChannelMeans", "insightface"),
    ],
)
def test_functions_return_networks(function: str, input: str, tmp_path: Path) -> None:
    embedder = Embedder(function, "cpu", input=input)
    np.testing.assert_allclose(embedder.features(CROPS), EXPECTED, atol=1e-4)
    convert(Path(function), tmp_path / "model", input=input)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.onnx"]
    np.testing.assert_allclose(Embedder(tmp_path / "model", "cpu").features(CROPS), EXPECTED, atol=1e-4)


def test_functions_return_any_callable() -> None:
    expected = means_of(CROPS, 0, 1)
    for function, input in (("make_callable", "sface,layout=nhwc"), ("make_tuple", "sface")):
        features = Embedder(f"channel_means:{function}", "cpu", input=input).features(CROPS)
        np.testing.assert_allclose(features, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("channel_means:nope", "has no 'nope'"),
        ("no_such_module:make", "cannot be imported"),
        ("channel_means:not_callable", "is not a function"),
        ("channel_means:fail", "failed (RuntimeError: no weights on this machine); mend"),
        ("channel_means:make_nothing", "returns int, not a network"),
        ("channel_means:make_nan", "computes NaN or infinity"),
        ("channel_means:make_scalar", "turns 2 crops into (), not into one feature for each"),
        ("channel_means:make_several", "has the outputs score, feature; choose one"),
        ("channel_means:make_tuple", "has the outputs 0, 1; choose one"),
        ("channel_means:make_picky", "does not accept arcface-112x112 crops"),
    ],
)
def test_functions_that_do_not_work_are_one_line(function: str, message: str) -> None:
    with pytest.raises(SfplusError) as caught:
        read_model(Path(function), input="insightface,layout=nchw" + ",output=b" * ("tuple" in function))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_functions_are_imported_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_network.py").write_text("from channel_means import make\n")
    monkeypatch.chdir(tmp_path)
    before = sys.path.copy()
    for _ in range(2):
        assert ModelSource("my_own_network:make", input="sface").loaded.config["feature_size"] == 3
    assert sys.path == [*before, str(tmp_path)]  # last, so that it replaces nothing; the function may import later


def test_an_input_must_be_described(tmp_path: Path) -> None:
    export(tmp_path / "x.pt2")
    for name in ("channel_means:make", str(tmp_path / "x.pt2")):
        with pytest.raises(UsageError, match=r"does not say which crops .* give --input with a preset \(sphereface"):
            read_model(Path(name))


def test_the_digest_of_a_function_follows_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = ModelSource("channel_means:make", input="sface").content
    assert ModelSource("channel_means:make", input="sface").content == digest
    assert ModelSource("channel_means:make", input="insightface").content != digest
    monkeypatch.setattr(ChannelMeans, "forward", lambda self, x: x.amax((2, 3)))
    assert ModelSource("channel_means:make", input="sface").content != digest


@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".ckpt"])
def test_state_dicts_of_own_networks(prefix: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    tensors = {f"{prefix}weight": torch.tensor([3.0, 2, 1], dtype=torch.bfloat16)}
    save_file(tensors, path) if suffix == ".safetensors" else torch.save({"state_dict": tensors, "epoch": 3}, path)
    embedder = Embedder(path, "cpu", network="channel_means:make", input="sface")
    np.testing.assert_allclose(embedder.features(CROPS), means_of(CROPS, 0, 1) * [3, 2, 1], atol=2e-3)
    with pytest.raises(WeightsError, match="has no layers of a SphereFace network"):
        read_model(path)
    with pytest.raises(UsageError, match="which has no weights to load"):
        read_model(path, "channel_means:make_tuple", input="sface")


def test_weights_that_do_not_fit_a_function_are_named(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(4)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"tensor weight is \(4,\), channel_means:make needs \(3,\)"):
        read_model(tmp_path / "x.safetensors", "channel_means:make", input="sface")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_and_torch_export(tmp_path: Path) -> None:
    export(tmp_path / "x.pt2")
    torch.jit.trace(ChannelMeans(), torch.zeros(2, 3, 112, 112)).save(tmp_path / "x.pt")
    for name in ("x.pt2", "x.pt"):
        with pytest.warns(UserWarning, match="is a program .* use only files that you trust"):
            embedder = Embedder(tmp_path / name, "cpu", input="insightface")
        np.testing.assert_allclose(embedder.features(CROPS), EXPECTED, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is a program")
def test_folders_hold_no_programs(tmp_path: Path) -> None:
    convert(export(tmp_path / "x.pt2", SeveralOutputs()), tmp_path / "model", input="insightface,output=feature")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.onnx"]
    np.testing.assert_allclose(Embedder(tmp_path / "model", "cpu").features(CROPS), EXPECTED, atol=1e-4)


class _Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("a pickle was run",))


def rewrite(source: Path, target: Path, change: dict[str, bytes]) -> Path:
    """Copy an archive with some members, named by their ends, replaced."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.infolist():
            contents = [content for end, content in change.items() if member.filename.endswith(end)]
            new.writestr(member.filename, contents[0] if contents else old.read(member))
    return target


@pytest.mark.filterwarnings("ignore:.*is a program")
def test_pickles_and_expressions_in_exported_programs_do_not_run(tmp_path: Path) -> None:
    source = export(tmp_path / "x.pt2")
    bomb = io.BytesIO()
    torch.save(_Bomb(), bomb)
    load_exported_program(rewrite(source, tmp_path / "a.pt2", {"sample_inputs/model.pt": bomb.getvalue()}))
    with zipfile.ZipFile(source) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".json")}
    graph = next(text for name, text in texts.items() if name.endswith("models/model.json"))
    weights = next(text for name, text in texts.items() if "model_weights_config" in name)
    assert "Symbol('" in graph, "the shape is an expression"
    attacks = {
        "pickled weights": {"model_weights_config.json": weights.replace('"use_pickle": false', '"use_pickle": true')},
        "custom object": {
            "model_constants_config.json": json.dumps(
                {"config": {"a": {"path_name": "custom_obj_0", "is_param": False, "use_pickle": False}}}
            )
        },
        "expression": {"models/model.json": graph.replace("Symbol('", "__import__('os').system('")},
        "function": {"models/model.json": graph.replace("Symbol('", "exec(chr(65))+Symbol('")},
        "damaged": {"models/model.json": graph[:-20]},
    }
    for name, change in attacks.items():
        path = rewrite(source, tmp_path / f"{name}.pt2", {end: text.encode() for end, text in change.items()})
        with pytest.raises(WeightsError) as caught:
            load_exported_program(path)
        assert "\n" not in str(caught.value), name


@pytest.mark.filterwarnings("ignore:.*is a program")
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(100), pickle.dumps(_Bomb())])
def test_damaged_programs_are_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    for name in ("x.pt2", "x.pt"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError) as caught:
            read_model(tmp_path / name, input="insightface")
        assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)
