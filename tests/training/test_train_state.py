"""The state of modules and optimizers survives a checkpoint, whatever the optimizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import advance, collected, small_model

from sfplus.errors import TrainingError
from sfplus.training.checkpoint import load_checkpoint, save_checkpoint
from sfplus.training.optimizer import create_caffe_sgd

OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, betas=(0.5, 0.99), amsgrad=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01, momentum=0.5, centered=True),
    "nesterov": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.5, nesterov=True),
    "rprop": lambda parameters: torch.optim.Rprop(parameters, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_optimizers_are_restored(name: str, tmp_path: Path) -> None:
    """Two modules with an optimizer each, as in a GAN, after different numbers of steps."""

    def create() -> tuple[torch.nn.ModuleDict, dict[str, Any]]:
        modules = torch.nn.ModuleDict({"first": small_model()[0], "second": torch.nn.Linear(3, 2)})
        return modules, {key: OPTIMIZERS[name](modules[key].parameters()) for key in modules}

    def learn(modules: torch.nn.ModuleDict, optimizers: dict[str, Any], steps: int) -> None:
        for _ in range(steps):
            advance(modules["first"], optimizers["first"])
        optimizers["second"].zero_grad()
        modules["second"](torch.randn(4, 3)).square().sum().backward()
        optimizers["second"].step()

    modules, optimizers = create()
    learn(modules, optimizers, 3)
    save_checkpoint(tmp_path, 1, "digest", collected(modules, optimizers))
    restored, restored_optimizers = create()
    assert load_checkpoint(tmp_path, "digest", restored, restored_optimizers) == 1
    for pair in ((modules, optimizers), (restored, restored_optimizers)):
        torch.manual_seed(98)
        learn(*pair, 2)
    assert all(torch.equal(tensor, restored.state_dict()[key]) for key, tensor in modules.state_dict().items())
    kept = restored_optimizers["first"].state_dict()["param_groups"], optimizers["first"].state_dict()["param_groups"]
    assert json.dumps(kept[0]) == json.dumps(kept[1])
    with pytest.raises(TrainingError, match=r"does not fit .*its optimizers are first, second"):
        load_checkpoint(tmp_path, "digest", restored, {"first": restored_optimizers["first"]})


def test_gradient_scaler_is_restored(tmp_path: Path) -> None:
    module, _ = small_model()
    scaler, restored = (torch.amp.GradScaler("cpu", init_scale=scale) for scale in (8.0, 2.0))
    save_checkpoint(tmp_path, 1, "digest", collected(module, {"scaler": scaler}))
    load_checkpoint(tmp_path, "digest", module, {"scaler": restored})
    assert restored.state_dict() == scaler.state_dict() and restored.get_scale() == 8.0


def test_velocities_are_restored_in_the_memory_format_of_their_weights(tmp_path: Path) -> None:
    module, optimizer = small_model()
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    advance(module, optimizer)
    save_checkpoint(tmp_path, 1, "digest", collected(module, {"sgd": optimizer}))
    load_checkpoint(tmp_path, "digest", module, {"sgd": optimizer})
    weight = module[0].weight  # type: ignore[index]
    assert optimizer.state[weight]["momentum_buffer"].stride() == weight.stride()


def test_optimizer_without_momentum_is_restored(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    optimizer = create_caffe_sgd(module, lr=1, momentum=0, weight_decay=0)
    save_checkpoint(tmp_path, 1, "digest", collected(module, {"sgd": optimizer}))
    assert load_checkpoint(tmp_path, "digest", module, {"sgd": optimizer}) == 1


@pytest.mark.parametrize("fused", [None, True])
def test_the_kernel_of_a_step_is_that_of_the_device_not_of_the_checkpoint(fused: bool | None, tmp_path: Path) -> None:
    """A run may continue on another device."""
    parameters = [torch.nn.Linear(3, 2) for _ in range(2)]
    first, second = (
        torch.optim.SGD(module.parameters(), lr=0.5, fused=kernel)
        for module, kernel in zip(parameters, (fused, not fused or None), strict=True)
    )
    save_checkpoint(tmp_path, 1, "digest", collected(parameters[0], {"sgd": first}))
    load_checkpoint(tmp_path, "digest", parameters[1], {"sgd": second})
    assert second.param_groups[0]["fused"] == (not fused or None) and second.param_groups[0]["lr"] == 0.5
