from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sfplus.errors import TrainingError
from sfplus.training import checkpoint as resume
from sfplus.training.checkpoint import load_checkpoint, save_checkpoint
from sfplus.training.optimizer import create_optimizer
from sfplus.training.train_state import Stateful


def model() -> tuple[torch.nn.Module, torch.optim.SGD]:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.PReLU(4), torch.nn.BatchNorm2d(4))
    return module, create_optimizer(module, lr=0.1, momentum=0.9, weight_decay=1e-3)


def named(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[torch.nn.Module, dict[str, Stateful]]:
    return module, {"sgd": optimizer}


def advance(module: torch.nn.Module, optimizer: torch.optim.SGD) -> None:
    optimizer.zero_grad()
    module(torch.randn(2, 3, 5, 5)).square().sum().backward()
    optimizer.step()


def snapshots(folder: Path, steps: range) -> tuple[torch.nn.Module, torch.optim.SGD]:
    module, optimizer = model()
    for step in steps:
        advance(module, optimizer)
        save_checkpoint(folder, step, "digest", module, {"sgd": optimizer})
    return module, optimizer


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_everything_comes_back(tmp_path: Path) -> None:
    module, optimizer = snapshots(tmp_path, range(1, 4))
    optimizer.param_groups[0]["lr"] = 0.025
    save_checkpoint(tmp_path, 4, "digest", module, {"sgd": optimizer})
    other, its_optimizer = model()
    assert load_checkpoint(tmp_path, "digest", other, {"sgd": its_optimizer}) == 4
    assert [group["lr"] for group in its_optimizer.param_groups] == [0.025, 0.2]
    for trained, by in ((other, its_optimizer), (module, optimizer)):
        torch.manual_seed(98)
        for _ in range(3):
            advance(trained, by)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, betas=(0.5, 0.99), amsgrad=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01, momentum=0.5, centered=True),
    "nesterov": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.5, nesterov=True),
    "rprop": lambda parameters: torch.optim.Rprop(parameters, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_two_optimizers_come_back(name: str, tmp_path: Path) -> None:
    """As in the training of a generator: one each for two modules, here after different numbers of steps."""

    def two() -> tuple[torch.nn.ModuleDict, dict[str, Any]]:
        modules = torch.nn.ModuleDict({"first": model()[0], "second": torch.nn.Linear(3, 2)})
        return modules, {key: OPTIMIZERS[name](modules[key].parameters()) for key in modules}

    def learn(modules: torch.nn.ModuleDict, optimizers: dict[str, Any], steps: int) -> None:
        for _ in range(steps):
            advance(modules["first"], optimizers["first"])
        optimizers["second"].zero_grad()
        modules["second"](torch.randn(4, 3)).square().sum().backward()
        optimizers["second"].step()

    modules, optimizers = two()
    learn(modules, optimizers, 3)
    save_checkpoint(tmp_path, 1, "digest", modules, optimizers)
    again, its_optimizers = two()
    assert load_checkpoint(tmp_path, "digest", again, its_optimizers) == 1
    for modules_, optimizers_ in ((modules, optimizers), (again, its_optimizers)):
        torch.manual_seed(98)
        learn(modules_, optimizers_, 2)
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in modules.state_dict().items())
    kept = its_optimizers["first"].state_dict()["param_groups"], optimizers["first"].state_dict()["param_groups"]
    assert json.dumps(kept[0]) == json.dumps(kept[1])
    with pytest.raises(TrainingError, match=r"does not fit .*its optimizers are first, second"):
        load_checkpoint(tmp_path, "digest", again, {"first": its_optimizers["first"]})


def test_a_gradient_scaler_comes_back(tmp_path: Path) -> None:
    module, _ = model()
    scaler, other = (torch.amp.GradScaler("cpu", init_scale=scale) for scale in (8.0, 2.0))
    save_checkpoint(tmp_path, 1, "digest", module, {"scaler": scaler})
    load_checkpoint(tmp_path, "digest", module, {"scaler": other})
    assert other.state_dict() == scaler.state_dict() and other.get_scale() == 8.0


def test_velocities_come_back_in_the_layout_of_their_weights(tmp_path: Path) -> None:
    module, optimizer = model()
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    advance(module, optimizer)
    save_checkpoint(tmp_path, 1, "digest", module, {"sgd": optimizer})
    load_checkpoint(tmp_path, "digest", module, {"sgd": optimizer})
    weight = module[0].weight  # type: ignore[index]
    assert optimizer.state[weight]["momentum_buffer"].stride() == weight.stride()


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_the_last_few_are_kept(keep: int, tmp_path: Path) -> None:
    module, optimizer = model()
    for step in range(1, 6):
        save_checkpoint(tmp_path, step, "digest", module, {"sgd": optimizer}, keep)
    assert names(tmp_path) == [f"checkpoint-{step:06d}" for step in range(6 - keep, 6)]


def test_nothing_to_resume(tmp_path: Path) -> None:
    module, optimizer = model()
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
    elif how == "gone":
        file.unlink()
    elif how == "empty folder":
        shutil.rmtree(path)
        path.mkdir()
    else:
        state = path / "state.json"
        texts = {
            "state cut short": state.read_text()[:-3],
            "state of another step": state.read_text().replace('"step": 3', '"step": 2'),
            "state no object": "[1]",
            "state nested": "[" * 100_000,
            "state binary": "\0",
        }
        state.write_text(texts[how])


DAMAGES = ["cut short", "one bit", "gone", "empty folder", "state cut short"]
DAMAGES += ["state of another step", "state no object", "state nested", "state binary"]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, how: str) -> None:
    snapshots(tmp_path, range(1, 4))
    damage(tmp_path / "checkpoint-000003", how)
    module, optimizer = model()
    with pytest.warns(UserWarning, match=r"checkpoint-000003: is damaged \(.*\); the one before it is used") as caught:
        assert load_checkpoint(tmp_path, "digest", module, {"sgd": optimizer}) == 2
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    advance(module, optimizer)
    save_checkpoint(tmp_path, 3, "digest", module, {"sgd": optimizer})
    assert names(tmp_path) == ["checkpoint-000002", "checkpoint-000003"]
    assert load_checkpoint(tmp_path, "digest", *named(*model())) == 3


def test_all_damaged_starts_again(tmp_path: Path) -> None:
    snapshots(tmp_path, range(1, 3))
    damage(tmp_path / "checkpoint-000001", "one bit")
    damage(tmp_path / "checkpoint-000002", "gone")
    module, optimizer = model()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.warns(UserWarning, match="is damaged"):
        assert load_checkpoint(tmp_path, "digest", module, {"sgd": optimizer}) == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("crash", range(1, 10))
def test_a_crash_at_any_write_leaves_a_valid_checkpoint(
    tmp_path: Path, crash: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th operation on the disk is the last that happens."""
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
        patch.setattr(resume.shutil, "rmtree", counted(shutil.rmtree))
        with contextlib.suppress(InterruptedError):
            save_checkpoint(tmp_path, 4, "digest", module, {"sgd": optimizer})
    found = load_checkpoint(tmp_path, "digest", *named(*model()))
    assert found == (4 if crash > 5 else 3), "mkdir, three files, then the name"
    save_checkpoint(tmp_path, 5, "digest", module, {"sgd": optimizer})
    assert names(tmp_path) == [f"checkpoint-{found:06d}", "checkpoint-000005"]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    snapshots(tmp_path, range(1, 2))
    with pytest.raises(TrainingError, match="other settings or other data; train into another folder"):
        load_checkpoint(tmp_path, "another digest", *named(*model()))


def test_another_network_is_refused(tmp_path: Path) -> None:
    snapshots(tmp_path, range(1, 2))
    module = torch.nn.Linear(2, 2)
    with pytest.raises(TrainingError, match="does not fit this network and head") as caught:
        load_checkpoint(
            tmp_path, "digest", *named(module, create_optimizer(module, lr=1, momentum=0.9, weight_decay=0))
        )
    assert "\n" not in str(caught.value)


def test_checkpoints_hold_no_pickle(tmp_path: Path) -> None:
    snapshots(tmp_path, range(1, 2))
    folder = tmp_path / "checkpoint-000001"
    assert names(folder) == ["module.safetensors", "optimizer.safetensors", "state.json"]
    assert json.loads((folder / "state.json").read_text())["step"] == 1


def test_without_momentum(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    optimizer = create_optimizer(module, lr=1, momentum=0, weight_decay=0)
    save_checkpoint(tmp_path, 1, "digest", module, {"sgd": optimizer})
    assert load_checkpoint(tmp_path, "digest", module, {"sgd": optimizer}) == 1
