"""Checkpoints in all forms that people have, and faults of every kind."""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import os
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from sfplus.errors import WeightsError
from sfplus.weights.state_dicts import fit_names, read_state_dict, strip_wrappers


class Small(nn.Module):
    """A network with all kinds of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)


class Bomb:
    """Would run a command when it is unpickled."""

    def __init__(self, command: str = "echo exploded > exploded") -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


class Evaluated:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("__import__('os').mkdir('exploded')",)


STATE = {name: tensor.clone() for name, tensor in Small().state_dict().items()}
AVERAGE = {name: tensor + 1 for name, tensor in STATE.items()}
OPTIMIZER = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(4)}}, "param_groups": [{"lr": 0.1}]}


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def write(folder: Path, content: bytes, name: str = "x.pth") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def assert_is_state(tensors: dict[str, Tensor]) -> None:
    assert list(tensors) == list(STATE)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in STATE.items())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".PTH", ".pth.tar", ".ckpt", ".bin", ".tar"])
@pytest.mark.parametrize("zipped", [True, False])
def test_both_formats_under_all_suffixes(suffix: str, zipped: bool, tmp_path: Path) -> None:
    path = write(tmp_path, saved({"state_dict": STATE}, _use_new_zipfile_serialization=zipped), f"x{suffix}")
    assert_is_state(read_state_dict(path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    half = {name: tensor.to(dtype) for name, tensor in STATE.items()}
    safetensors.torch.save_file(half, tmp_path / "x.safetensors")
    for path in (write(tmp_path, saved(half)), tmp_path / "x.safetensors"):
        tensors = read_state_dict(path)
        assert all(torch.equal(tensors[name], tensor) for name, tensor in half.items())


@pytest.mark.parametrize(
    "content",
    [
        *({key: STATE} for key in ("state_dict", "model", "model_state_dict", "net", "network", "backbone", "ema",
                                   "model_ema", "params", "weights", "module", "student", "teacher", "ir50")),
        {"epoch": 3, "global_step": 9, "pytorch-lightning_version": "2.1", "state_dict": STATE, "loops": {"x": {}},
         "callbacks": {"ModelCheckpoint": {"best": torch.tensor(0.9)}}, "optimizer_states": [OPTIMIZER],
         "lr_schedulers": [{"last": 1}], "hyper_parameters": {"lr": 0.1}},
        {"step": 3, "model": {"backbone": STATE, "head": {"weight": torch.ones(9, 5)}}, "optimizer": OPTIMIZER},
        {"best_acc": torch.tensor(0.9), "mean": torch.ones(5), "state_dict": STATE, "opt_G": OPTIMIZER},
        {"ema": {"decay": 0.999, "shadow": STATE}},
        {"model": {"state_dict": {"network": STATE}}},
        {**STATE, "epoch": 3, "arch": "small", "version": None},
        collections.OrderedDict(STATE),
        {"backbone": STATE, "head": {"weight": torch.ones(9, 5)}, "ema_decay": 0.9},
    ],
)  # fmt: skip
def test_nested_state_dicts_are_taken_without_a_warning(content: Any, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_is_state(read_state_dict(write(tmp_path, saved(content))))


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        ({"model": STATE, "ema": AVERAGE}, "its 'model' is read, not ema"),
        ({"params_ema": AVERAGE, "params": STATE}, "its 'params' is read, not params_ema"),
        ({"state_dict": STATE, "state_dict_ema": AVERAGE}, "its 'state_dict' is read, not state_dict_ema"),
        ({"student": STATE, "teacher": AVERAGE}, "its 'student' is read, not teacher"),
        ({"model": STATE, "ema": {"shadow": AVERAGE}}, "its 'model' is read, not ema.shadow"),
        ({"state_dict": STATE, "sampler": AVERAGE}, "its 'state_dict' is read, not sampler"),
    ],
)
def test_a_warning_says_which_of_two_was_taken(content: Any, warning: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=warning):
        assert_is_state(read_state_dict(write(tmp_path, saved(content))))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"netG": STATE, "netD": AVERAGE}, "contains several state dicts: netG, netD"),
        ({"a": {"conv": STATE, "bn": STATE}}, r"several state dicts: a\.conv, a\.bn"),
        ([1, 2], "contains no state dict"),
        (torch.ones(3), "contains no state dict"),
        ({}, "contains no state dict"),
        ({"a": 1}, "contains no state dict"),
        ({1: torch.ones(3)}, "contains no state dict"),
        ({"optimizer": OPTIMIZER}, "contains no state dict"),
        ({"accuracy": torch.tensor(0.9)}, "contains no state dict"),
        ({"conv.weight": torch.eye(3).to_sparse()}, "tensor conv.weight is not stored completely, as plain numbers"),
        ({"conv.weight": torch.ones(1).expand(1 << 40)}, "tensor conv.weight is not stored completely"),
        ({"conv.weight": torch.ones(3, device="meta")}, "tensor conv.weight is not stored completely"),
    ],
)
def test_unsuitable_contents_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        read_state_dict(write(tmp_path, saved(content)))
    assert caught.value.remedy


def test_quantised_tensors_are_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to drop them
        quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
        path = write(tmp_path, saved({"conv.weight": quantised}))
        with pytest.raises(WeightsError, match=r"tensor conv\.weight is not stored completely"):
            read_state_dict(path)


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        (tmp_path / "model.pth").write_bytes(saved(STATE))
    finally:
        torch.serialization.set_crc32_options(True)
    assert_is_state(read_state_dict(tmp_path / "model.pth"))


def test_shared_storage_and_views_keep_their_values(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    content = {"a": base[:6].view(2, 3), "b": base[2:].view(5, 2).T, "c": base}
    tensors = read_state_dict(write(tmp_path, saved(content)))
    assert all(torch.equal(tensors[name], tensor) for name, tensor in content.items())


def test_storage_that_is_too_short_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, saved(STATE))
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part[:8] if name.endswith("data/0") else part)
    with pytest.raises(WeightsError, match="is incomplete or damaged"):
        read_state_dict(path)


@pytest.mark.parametrize(
    "beside",
    [
        argparse.Namespace(lr=0.1, out=Path("runs"), when=datetime.datetime.now()),
        np.float64(3), np.float32(3), np.int64(3), np.bool_(True), np.ones(3), np.array(["a"]), np.dtype("f4"),
        collections.defaultdict(list, {1: [2]}), {1, 2}, frozenset([1]), slice(1), 1j, range(3), b"x", bytearray(b"x"),
        datetime.timedelta(3), collections.Counter("ab"), torch.float32, torch.device("cpu"), torch.Size([1]), list,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
@pytest.mark.parametrize("zipped", [True, False])
def test_harmless_objects_beside_the_weights_are_skipped(beside: Any, zipped: bool, tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    content = saved({"args": beside, "state_dict": STATE}, _use_new_zipfile_serialization=zipped)
    assert_is_state(read_state_dict(write(tmp_path, content)))
    assert set(torch.serialization.get_safe_globals()) == before


def test_mappings_of_other_packages_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class of this name is pickled as easydict pickles its own; the package need not be installed."""
    module = type(os)("easydict")
    module.EasyDict = type("EasyDict", (dict,), {"__module__": "easydict"})  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "easydict", module)
    content = saved({"config": module.EasyDict(lr=0.1), "model": module.EasyDict(STATE)})  # type: ignore[attr-defined]
    monkeypatch.delitem(__import__("sys").modules, "easydict")
    assert_is_state(read_state_dict(write(tmp_path, content)))


def _script() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and the files of others remain
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


def _archive(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "npz":
        np.savez(buffer, a=np.ones(3))
    elif kind in ("readme.txt", "x/archive_format"):
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(kind, "pt2")
    else:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            member = tarfile.TarInfo("x.pth")
            data = saved(STATE)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n"
FAULTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "it is empty"),
    "web page": (lambda: b"<!DOCTYPE html><html>404</html>", "it is a web page"),
    "Git LFS pointer": (lambda: LFS, "it is a pointer of Git LFS, not the file"),
    "text": (lambda: b"hello world", "it is a text file"),
    "random bytes": (lambda: bytes(range(7, 256)), "it was not written by torch.save, or is damaged"),
    "cut": (lambda: saved(STATE)[:-200], "it is incomplete or damaged"),
    "cut, old format": (lambda: saved(STATE, _use_new_zipfile_serialization=False)[:-8], "it is incomplete or damaged"),
    "whole network": (lambda: saved(Small()), "it has a pickled network that needs test_state_dicts.Small"),
    "whole Sequential": (lambda: saved(nn.Sequential(nn.Linear(1, 1))), "a pickled network that needs torch.nn"),
    "unknown class": (lambda: saved({"a": STATE, "b": Fraction(1, 2)}), "an object that needs fractions.Fraction"),
    "os.system": (lambda: saved(Bomb()), f"it has an object that needs {os.name}.system"),
    "os.system, old format": (
        lambda: saved(Bomb(), _use_new_zipfile_serialization=False), f"an object that needs {os.name}.system"
    ),
    "os.system beside weights": (lambda: saved({**STATE, "b": Bomb()}), f"an object that needs {os.name}.system"),
    "eval": (lambda: saved(Evaluated()), "an object that needs builtins.eval"),
    "pickle of os.system": (lambda: pickle.dumps(Bomb()), "it is a pickle of Python, not a file of torch.save"),
    "pickle of protocol 2": (lambda: pickle.dumps({"a": 1}, 2), "it is a pickle of Python, not a file of torch.save"),
    "TorchScript": (_script, "it is a TorchScript file, which is a program"),
    "torch.export": (lambda: _archive("x/archive_format"), "it is a file of torch.export, which is a program"),
    "npz": (lambda: _archive("npz"), "it contains arrays of NumPy"),
    "zip": (lambda: _archive("readme.txt"), "it is a zip archive without a checkpoint"),
    "tar": (lambda: _archive("tar"), "it is a tar archive"),
    "gzip": (lambda: b"\x1f\x8b\x08\0...", "it is compressed with gzip"),
    "7z": (lambda: b"7z\xbc\xaf\x27\x1c", "it is a 7z archive"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n", "it is an HDF5 file"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_have_a_short_plain_reason(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No message repeats torch's advice or its escape codes, and nothing is executed."""
    monkeypatch.chdir(tmp_path)
    content, reason = FAULTS[fault]
    with pytest.raises(WeightsError) as caught:
        read_state_dict(write(tmp_path, content()))
    message = str(caught.value)
    assert "contains no state dict" in message and reason in message and caught.value.remedy
    assert not any(word in message for word in ("\x1b", "\\x1b", "\n", "weights_only", "safe_globals", "http"))
    assert len(caught.value.reason) < 180 and not Path("exploded").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_files_cut_at_any_length_are_damaged(zipped: bool, tmp_path: Path) -> None:
    data = saved({"a": torch.ones(1)}, _use_new_zipfile_serialization=zipped)
    for length in range(3, len(data), 3 if not zipped else 17):
        with pytest.raises(WeightsError, match="is incomplete or damaged"):
            read_state_dict(write(tmp_path, data[:length]))


@pytest.mark.parametrize(
    ("prefix", "inner"),
    [
        ("", ""), ("module.", ""), ("_orig_mod.", ""), ("module._orig_mod.", ""), ("_orig_mod.module.", ""),
        ("model.", ""), ("backbone.", ""), ("net.", ""), ("model.backbone.", ""), ("module.model.net.", ""),
        ("model._orig_mod.", "_orig_mod."), ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module."),
    ],
)  # fmt: skip
def test_prefixes_of_wrappers_are_removed(prefix: str, inner: str) -> None:
    wrapped = {f"{prefix}{name.replace('.', f'.{inner}', 1)}": tensor for name, tensor in STATE.items()}
    assert_is_state(strip_wrappers(wrapped))
    assert_is_state(fit_names(wrapped, STATE))


def test_names_that_only_look_like_wrappers_are_kept() -> None:
    names = {"model.weight": torch.ones(1), "conv.weight": torch.ones(1)}
    assert list(strip_wrappers(names)) == list(names)
    assert list(strip_wrappers({"weight": torch.ones(1)})) == ["weight"] and strip_wrappers({}) == {}


@pytest.mark.parametrize("prefix", ["", "encoder_q.", "recogniser.face.", "module."])
def test_any_common_prefix_is_found_and_classifiers_are_named(prefix: str) -> None:
    tensors = {f"{prefix}{name}": tensor for name, tensor in STATE.items()}
    classifiers = ["head.weight", "arcface.kernel", "fc8.bias"] if not prefix else ["criterion.weight", "other.x"]
    tensors |= {name: torch.ones(9, 5) for name in classifiers}
    with pytest.warns(UserWarning, match="the network has no " + ", ".join(classifiers) + ", which are not used"):
        assert_is_state(fit_names(tensors, STATE))


def test_a_prefix_of_the_network_is_added() -> None:
    expected = [f"wrapped.net.{name}" for name in STATE]
    assert list(fit_names(STATE, expected)) == expected
    assert list(fit_names({f"module.{name}": tensor for name, tensor in STATE.items()}, expected)) == expected


def test_counters_that_old_files_lack_are_zero() -> None:
    old = {name: tensor for name, tensor in STATE.items() if not name.endswith("num_batches_tracked")}
    assert int(fit_names(old, STATE)["bn.num_batches_tracked"]) == 0


def test_layers_that_the_network_lacks_are_not_dropped() -> None:
    """A layer in the middle of a network changes its features."""
    extra = {"conv9.weight": torch.ones(1), "layer1.se.fc1.weight": torch.ones(1)}
    assert set(fit_names(STATE | extra, STATE)) == {*STATE, *extra}
    assert list(fit_names(extra, STATE)) == list(extra)


def test_two_parts_that_fit_are_refused_except_an_average() -> None:
    def under(*prefixes: str) -> dict[str, Tensor]:
        return {f"{prefix}.{name}": tensor for prefix in prefixes for name, tensor in STATE.items()}

    with pytest.raises(WeightsError, match=r"x.pth: several parts of it fit the network: left\., right\."):
        fit_names(under("left", "right"), STATE, "x.pth")
    with pytest.warns(UserWarning, match="the network has no teacher.conv.weight"):
        assert_is_state(fit_names(under("student", "teacher"), STATE))
