from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import advance, collected, small_model

from sfplus.errors import SfplusError, TrainingError
from sfplus.training.checkpoint import load_checkpoint, save_checkpoint
from sfplus.training.optimizer import create_caffe_sgd
from sfplus.training.train_state import Stateful


def named(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[torch.nn.Module, dict[str, Stateful]]:
    return module, {"sgd": optimizer}


def snapshots(folder: Path, steps: range) -> tuple[torch.nn.Module, torch.optim.SGD]:
    module, optimizer = small_model()
    for step in steps:
        advance(module, optimizer)
        save_checkpoint(folder, step, "digest", collected(module, {"sgd": optimizer}))
    return module, optimizer


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_state_is_restored_exactly(tmp_path: Path) -> None:
    module, optimizer = snapshots(tmp_path, range(1, 4))
    optimizer.param_groups[0]["lr"] = 0.025
    save_checkpoint(tmp_path, 4, "digest", collected(module, {"sgd": optimizer}))
    restored, restored_optimizer = small_model()
    assert load_checkpoint(tmp_path, "digest", restored, {"sgd": restored_optimizer}) == 4
    assert [group["lr"] for group in restored_optimizer.param_groups] == [0.025, 0.2]
    for network, sgd in ((restored, restored_optimizer), (module, optimizer)):
        torch.manual_seed(98)
        for _ in range(3):
            advance(network, sgd)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, restored.state_dict()[name]), name


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_newest_checkpoints_are_kept(keep: int, tmp_path: Path) -> None:
    module, optimizer = small_model()
    for step in range(1, 6):
        save_checkpoint(tmp_path, step, "digest", collected(module, {"sgd": optimizer}), keep)
    assert names(tmp_path) == [f"checkpoint-{step:06d}" for step in range(6 - keep, 6)]


def test_folder_without_checkpoints(tmp_path: Path) -> None:
    module, optimizer = small_model()
    (tmp_path / "checkpoint-notes").mkdir()
    assert load_checkpoint(tmp_path, "digest", module, {"sgd": optimizer}) == 0


def damage(path: Path, how: str) -> None:
    file = path / "module.safetensors"
    data = bytearray(file.read_bytes())
    if how == "cut short":
        file.write_bytes(data[:-1])
    elif how == "one bit":
        data[-5] ^= 1
        file.write_bytes(data)
    elif how == "missing":
        file.unlink()
    elif how == "empty folder":
        shutil.rmtree(path)
        path.mkdir()
    else:
        state = path / "state.json"
        texts = {
            "state cut short": state.read_text()[:-3],
            "state of another step": state.read_text().replace('"step": 3', '"step": 2'),
            "state not an object": "[1]",
            "state nested": "[" * 100_000,
            "state binary": "\0",
        }
        state.write_text(texts[how])


DAMAGES = ["cut short", "one bit", "missing", "empty folder", "state cut short"]
DAMAGES += ["state of another step", "state not an object", "state nested", "state binary"]


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_checkpoint_falls_back_to_the_previous_one(tmp_path: Path, how: str) -> None:
    snapshots(tmp_path, range(1, 4))
    damage(tmp_path / "checkpoint-000003", how)
    module, optimizer = small_model()
    with pytest.warns(UserWarning, match=r"checkpoint-000003: is damaged \(.*\); the one before it is used") as caught:
        assert load_checkpoint(tmp_path, "digest", module, {"sgd": optimizer}) == 2
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    advance(module, optimizer)
    save_checkpoint(tmp_path, 3, "digest", collected(module, {"sgd": optimizer}))
    assert names(tmp_path) == ["checkpoint-000002", "checkpoint-000003"]
    assert load_checkpoint(tmp_path, "digest", *named(*small_model())) == 3


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES])
def test_a_fault_of_the_disk_does_not_discard_a_checkpoint(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots(tmp_path, range(1, 4))
    read = Path.read_bytes

    def fail(path: Path) -> bytes:
        if "checkpoint-000003" in path.parts:
            raise OSError(number, os.strerror(number))
        return read(path)

    with monkeypatch.context() as broken, pytest.raises(TrainingError, match=r"checkpoint-000003.*: cannot be read"):
        broken.setattr(Path, "read_bytes", fail)
        load_checkpoint(tmp_path, "digest", *named(*small_model()))
    assert load_checkpoint(tmp_path, "digest", *named(*small_model())) == 3


def test_run_starts_again_if_all_checkpoints_are_damaged(tmp_path: Path) -> None:
    snapshots(tmp_path, range(1, 3))
    damage(tmp_path / "checkpoint-000001", "one bit")
    damage(tmp_path / "checkpoint-000002", "missing")
    module, optimizer = small_model()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.warns(UserWarning, match="is damaged"):
        assert load_checkpoint(tmp_path, "digest", module, {"sgd": optimizer}) == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


HISTORIES = {
    "missing": None, "empty": b"", "cut": b'{"step": 1}\n{"st', "zeros": b"\0" * 24,
    "other": b'{"step": 1}\n{"step": 9}\n',
}  # fmt: skip


@pytest.mark.parametrize("how", HISTORIES)
def test_a_checkpoint_whose_history_was_lost_falls_back_to_the_previous_one(tmp_path: Path, how: str) -> None:
    module, optimizer = small_model()
    for step in range(1, 3):
        advance(module, optimizer)
        with (tmp_path / "history.jsonl").open("a") as file:
            file.write(f'{{"step": {step}}}\n')
        save_checkpoint(tmp_path, step, "digest", collected(module, {"sgd": optimizer}))
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 3')  # rows after the checkpoint do not count
    assert load_checkpoint(tmp_path, "digest", *named(*small_model())) == 2
    data = HISTORIES[how]
    (tmp_path / "history.jsonl").unlink() if data is None else (tmp_path / "history.jsonl").write_bytes(data)
    with pytest.warns(UserWarning, match=r"checkpoint-000002: is damaged \(history.jsonl was changed or cut short\)"):
        step = load_checkpoint(tmp_path, "digest", *named(*small_model()))
    assert step == (1 if how in ("cut", "other") else 0)


@pytest.mark.parametrize("crash", range(1, 14))
def test_crash_at_any_write_leaves_a_valid_checkpoint(
    tmp_path: Path, crash: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let every operation on the disk from the n-th on fail."""
    module, optimizer = snapshots(tmp_path, range(1, 4))
    count = 0

    def counted(function: Any) -> Any:
        def operation(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count >= crash:
                raise InterruptedError
            return function(*args, **options)

        return operation

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", counted(os.fsync))
        patch.setattr(Path, "mkdir", counted(Path.mkdir))
        patch.setattr(Path, "replace", counted(Path.replace))
        patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        with contextlib.suppress(InterruptedError, SfplusError):
            save_checkpoint(tmp_path, 4, "digest", collected(module, {"sgd": optimizer}))
    step = load_checkpoint(tmp_path, "digest", *named(*small_model()))
    assert step == (4 if crash > 10 else 3), "two mkdir, the names of three files, four flushes, then the name"
    save_checkpoint(tmp_path, 5, "digest", collected(module, {"sgd": optimizer}))
    assert names(tmp_path) == [f"checkpoint-{step:06d}", "checkpoint-000005"]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    snapshots(tmp_path, range(1, 2))
    with pytest.raises(TrainingError, match="other settings or other data; train into another folder"):
        load_checkpoint(tmp_path, "another digest", *named(*small_model()))


def test_another_network_is_refused(tmp_path: Path) -> None:
    snapshots(tmp_path, range(1, 2))
    module = torch.nn.Linear(2, 2)
    with pytest.raises(TrainingError, match="does not fit this network and head") as caught:
        load_checkpoint(
            tmp_path, "digest", *named(module, create_caffe_sgd(module, lr=1, momentum=0.9, weight_decay=0))
        )
    assert "\n" not in str(caught.value)


def test_checkpoints_hold_no_pickle(tmp_path: Path) -> None:
    snapshots(tmp_path, range(1, 2))
    folder = tmp_path / "checkpoint-000001"
    assert names(folder) == ["module.safetensors", "optimizer.safetensors", "state.json"]
    assert json.loads((folder / "state.json").read_text())["step"] == 1
