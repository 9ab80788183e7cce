from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from sfplus.errors import UsageError, WeightsError
from sfplus.hypersphere import ASoftmax
from sfplus.networks import create
from sfplus.weights.loading import load_model
from sfplus.weights.model_folder import HEAD, copy_by_name, load_tensors, save_model

CONFIG: dict[str, Any] = {"network": "sphereface4", "feature_size": 8, "width": 0.125, "template": "sphereface-112x96"}


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return create("sphereface4", feature_size=8, width=0.125)


@pytest.fixture
def folder(network: torch.nn.Module, tmp_path: Path) -> Path:
    save_model(tmp_path / "model", network, CONFIG)
    return tmp_path / "model"


def rewrite(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(file) | change
    safetensors.torch.save_file({k: v for k, v in tensors.items() if v is not None}, file)


def one_line(caught: pytest.ExceptionInfo[WeightsError]) -> str:
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600
    return text


def test_a_saved_model_is_loaded_exactly(network: torch.nn.Module, folder: Path) -> None:
    state = torch.get_rng_state()
    for path in (folder, folder / "model.safetensors"):
        loaded, config = load_model(path)
        assert config == CONFIG and not loaded.training
        parameters = zip(network.named_parameters(), loaded.named_parameters(), strict=True)
        for (name, expected), (loaded_name, actual) in parameters:
            assert loaded_name == name and torch.equal(actual, expected)
            assert actual.requires_grad == expected.requires_grad
        x = torch.randn(1, 3, 112, 96, generator=torch.Generator().manual_seed(0))
        assert torch.equal(network(x), loaded(x))
    assert torch.equal(torch.get_rng_state(), state), "loading must not draw random numbers"


def test_files_can_be_read_by_hugging_face_tools(network: torch.nn.Module, folder: Path) -> None:
    with safetensors.safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"} and set(file.keys()) == set(network.state_dict())
    assert json.loads((folder / "config.json").read_text()) == CONFIG
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_half_precision_halves_the_file(network: torch.nn.Module, tmp_path: Path) -> None:
    save_model(tmp_path, network, CONFIG, dtype=torch.float16)
    assert (tmp_path / "model.safetensors").stat().st_size < 0.6 * sum(4 * p.numel() for p in network.parameters())
    loaded, _ = load_model(tmp_path)
    for original, actual in zip(network.parameters(), loaded.parameters(), strict=True):
        assert actual.dtype == torch.float32 and torch.equal(actual, original.half().float())


def test_equal_weights_give_equal_bytes(network: torch.nn.Module, folder: Path, tmp_path: Path) -> None:
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_model(tmp_path / "channels_last", network, CONFIG)
    assert not network.get_parameter("conv1_1.weight").is_contiguous()
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "channels_last" / file).read_bytes() == (folder / file).read_bytes()


def test_the_head_is_stored_next_to_the_network(network: torch.nn.Module, tmp_path: Path) -> None:
    head = ASoftmax(8, 5, iteration=7)
    save_model(tmp_path, network, CONFIG, head=head)
    new_head = ASoftmax(8, 5)
    report = copy_by_name(load_tensors(tmp_path / HEAD), new_head)
    assert torch.equal(head.weight, new_head.weight) and report.loaded == ("weight",)
    assert int(new_head.iteration) == 0, "the counter of lambda is not a weight"
    load_model(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {},
        CONFIG | {"width": "1"},
        CONFIG | {"feature_size": 0},
        CONFIG | {"provenance": {1, 2}},
        CONFIG | {"loss": float("nan")},
    ],
)
def test_an_invalid_config_is_not_saved(network: torch.nn.Module, tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match="does not describe a model") as caught:
        save_model(tmp_path, network, config)
    one_line(caught)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc5.weight": None}, "tensor fc5.weight is missing"),
        ({"conv1_1.weight": None, "fc5.weight": None}, "tensor conv1_1.weight is missing"),
        ({"extra": torch.zeros(1)}, "tensor extra does not belong to sphereface4"),
        ({"fc5.bias": torch.zeros(9)}, r"tensor fc5.bias is \(9,\), sphereface4 needs \(8,\)"),
        ({"fc5.bias": torch.zeros(8, dtype=torch.int64)}, "tensor fc5.bias holds torch.int64, not torch.float32"),
        ({"fc5.bias": torch.zeros(8, dtype=torch.complex64)}, "tensor fc5.bias holds torch.complex64"),
        ({"fc5.bias": torch.full((8,), torch.nan)}, "tensor fc5.bias does not hold finite"),
        ({"fc5.bias": torch.full((8,), -torch.inf)}, "tensor fc5.bias does not hold finite"),
        ({"fc5.bias": torch.full((8,), 1e300, dtype=torch.float64)}, "tensor fc5.bias does not hold finite"),
        ({"fc5.bias": torch.full((8,), torch.nan).to(torch.float8_e4m3fn)}, "tensor fc5.bias does not hold finite"),
    ],
)
def test_the_message_names_the_first_tensor_that_differs(folder: Path, change: dict[str, Any], message: str) -> None:
    rewrite(folder, change)
    with pytest.raises(WeightsError, match=message) as caught:
        load_model(folder)
    assert "model.safetensors" in one_line(caught)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("", "is damaged"),
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ('{"network": "sphereface4"}', "feature_size"),
        (json.dumps(CONFIG | {"network": "os.system"}), "no network is called"),
        (json.dumps(CONFIG | {"network": "sphereface10"}), r"tensor conv2_2.weight is missing"),
        (json.dumps(CONFIG | {"feature_size": 10**30}), "feature_size"),
        (json.dumps(CONFIG | {"width": 1e300}), "width"),
        (json.dumps(CONFIG | {"width": 0.25}), "tensor conv1_1.weight is"),
        ("\0\ud800", "is damaged"),
    ],
)
def test_invalid_configs_are_refused(folder: Path, text: str | None, message: str) -> None:
    file = folder / "config.json"
    file.unlink() if text is None else file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(WeightsError, match=message) as caught:
        load_model(folder)
    one_line(caught)


def test_truncated_files_are_refused_with_one_line(folder: Path) -> None:
    file = folder / "model.safetensors"
    data = file.read_bytes()
    header = struct.unpack("<Q", data[:8])[0] + 8
    for length in (0, 1, 7, 8, 9, header // 2, header - 1, header, header + 1, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:length])
        with pytest.raises(WeightsError, match="is damaged") as caught:
            load_model(folder)
        one_line(caught)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{}" + b" " * 6,
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,999999999999]}}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"XYZ","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    ],
)
@pytest.mark.parametrize("size", [None, 2**63, 2**40])
def test_hostile_headers_are_refused(folder: Path, header: bytes, size: int | None) -> None:
    data = struct.pack("<Q", len(header) if size is None else size) + header + b"\0" * 4
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(WeightsError) as caught:
        load_model(folder)
    one_line(caught)


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was run",))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".pkl", ".PTH", ".safetensors"])
def test_pickles_are_never_run(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"model{suffix}"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_Bomb()))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(WeightsError, match="is damaged" if suffix == ".safetensors" else "pickle") as caught:
        load_model(file)
    one_line(caught)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("net.caffemodel", "no such file"),
        ("net.pth", "no such file"),
        ("missing", "no such file"),
        ("notes.txt", "has a format that cannot be read"),
    ],
)
def test_messages_about_other_paths_contain_a_remedy(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises((WeightsError, UsageError), match=message) as caught:
        load_model(tmp_path / name)
    one_line(caught)
    with pytest.raises(WeightsError, match=r"model\.safetensors: there is no such file"):
        load_model(tmp_path)


def test_copy_by_name_copies_matching_parameters() -> None:
    torch.manual_seed(0)
    small, large = (
        create("sphereface10", feature_size=8, width=0.125),
        create("sphereface20", feature_size=9, width=0.125),
    )
    source = small.state_dict() | {"fc6.weight": torch.zeros(3)}
    before = {name: tensor.clone() for name, tensor in large.state_dict().items()}
    report = copy_by_name(source, large)
    assert report.mismatched == ("fc5.bias", "fc5.weight") and report.unused == ("fc6.weight",)
    assert set(report.loaded) == set(small.state_dict()) - set(report.mismatched)
    assert set(report.missing) == set(large.state_dict()) - set(small.state_dict())
    for name, tensor in large.state_dict().items():
        assert torch.equal(tensor, source[name] if name in report.loaded else before[name]), name


def test_a_model_is_not_saved_below_a_file(network: torch.nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(UsageError, match="file: is not a folder"):
            save_model(folder, network, CONFIG)


def test_a_list_of_many_empty_tensors_is_refused_before_it_is_read(folder: Path) -> None:
    entries = b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % number for number in range(100_000))
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(entries) + 2) + b"{" + entries + b"}" + b"\0" * 9)
    with pytest.raises(WeightsError, match="bytes, more than the limit of 4,194,304"):
        load_model(folder)
