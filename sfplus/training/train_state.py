"""The state of a training as tensors and numbers: modules and optimizers of any kind, with shards gathered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sfplus.device import to_host
from sfplus.hypersphere import ShardedHead


class Stateful(Protocol):
    """An object with a state of tensors and numbers, such as an optimizer or a gradient scaler."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace the state."""
        ...


@dataclass(frozen=True)
class TrainState:
    """The state of modules and optimizers.

    Attributes:
        modules: parameters and buffers by the names of `state_dict()`. A class-parallel classifier has all its
            classes, so that a run can be continued by any number of processes.
        optimizers: tensors of the optimizers, by their path.
        numbers: the remaining state of each optimizer by its name, ready for JSON.
    """

    modules: dict[str, Tensor]
    optimizers: dict[str, Tensor]
    numbers: dict[str, Any]


def collect_state(module: nn.Module, optimizers: Mapping[str, Stateful]) -> TrainState | None:
    """Copy the state of modules and optimizers to the host; a GPU is waited for once, not once per tensor.

    Returns:
        The state. If there are sharded heads, all processes must call this function together, and all but the first
        get None.
    """
    modules = dict(module.state_dict())
    for name, head in sharded_heads(module):
        for key in head.state_dict():
            del modules[f"{name}.{key}"]
        full = head.full_state() or {}
        modules |= {f"{name}.{key}": value for key, value in full.items()}
    tensors: dict[str, Tensor] = {}
    numbers = {}
    for name, optimizer in optimizers.items():
        state = optimizer.state_dict()
        for head, index, parameter in _sharded_parameters(module, optimizer):
            shard = state["state"].get(index, {})
            gathered = {key: head.gather_rows(value) for key, value in shard.items() if _same_shape(value, parameter)}
            state["state"][index] = {**shard, **gathered}
        numbers[name] = _separate(state, name, tensors)
    if any(head.ranks.rank for _, head in sharded_heads(module)):
        return None
    copies = iter(to_host([*modules.values(), *tensors.values()]))
    return TrainState(dict(zip(modules, copies, strict=False)), dict(zip(tensors, copies, strict=True)), numbers)


def is_finite(state: TrainState, module: nn.Module) -> bool:
    """Return True if all parameters of a module are finite in its state."""
    names = [name for name, _ in module.named_parameters()]
    for name, _ in sharded_heads(module):  # in the state, a sharded head has the names of a whole one
        names = [key.replace(f"{name}.head.", f"{name}.", 1) if key.startswith(f"{name}.") else key for key in names]
    return all(bool(state.modules[name].isfinite().all()) for name in names)


def restore_state(state: TrainState, module: nn.Module, optimizers: Mapping[str, Stateful]) -> None:
    """Load a state into modules and optimizers, without communication between processes.

    Raises:
        KeyError, RuntimeError, ValueError: If the state belongs to other modules or optimizers.
    """
    if state.numbers.keys() != optimizers.keys():
        raise ValueError(f"its optimizers are {', '.join(state.numbers)}")
    modules = dict(state.modules)
    for name, head in sharded_heads(module):
        keys = [key for key in modules if key.startswith(f"{name}.")]
        head.load_full_state({key.removeprefix(f"{name}."): modules.pop(key) for key in keys})
        modules |= {f"{name}.{key}": value for key, value in head.state_dict().items()}
    module.load_state_dict(modules)
    for name, optimizer in optimizers.items():
        restored = _join(state.numbers[name], state.optimizers)
        heads = {index: head for head, index, _ in _sharded_parameters(module, optimizer)}
        for index, parameter in enumerate(_parameters(optimizer)):
            for key, value in restored["state"].get(index, {}).items():
                local = torch.empty_like(parameter, requires_grad=False)
                if index in heads and isinstance(value, Tensor) and value.ndim:
                    heads[index].load_rows(local, value)
                elif _same_shape(value, parameter):
                    local.copy_(value)  # into the memory format of the parameter, which safetensors does not keep
                else:
                    continue
                restored["state"][index][key] = local
        for saved, current in zip(restored.get("param_groups", ()), _groups(optimizer), strict=False):
            saved |= {
                key: current[key] for key in ("fused", "foreach") if key in current
            }  # a choice of this device, no state
        optimizer.load_state_dict(restored)


def sharded_heads(module: nn.Module) -> Iterator[tuple[str, ShardedHead]]:
    """Yield the class-parallel classifiers in a module with their names."""
    return ((name, part) for name, part in module.named_modules() if isinstance(part, ShardedHead))


def _groups(optimizer: Stateful) -> list[dict[str, Any]]:
    return optimizer.param_groups if isinstance(optimizer, torch.optim.Optimizer) else []


def _parameters(optimizer: Stateful) -> list[nn.Parameter]:
    return [parameter for group in _groups(optimizer) for parameter in group["params"]]


def _sharded_parameters(module: nn.Module, optimizer: Stateful) -> Iterator[tuple[ShardedHead, int, nn.Parameter]]:
    """Yield the sharded parameters of an optimizer with their heads and their indices in its state."""
    for _, head in sharded_heads(module):
        for index, parameter in enumerate(_parameters(optimizer)):
            if parameter is head.head.weight:
                yield head, index, parameter


def _same_shape(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _separate(state: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return a state ready for JSON; each tensor moves to `tensors` and is replaced by {"tensor": path}."""
    if isinstance(state, Tensor):
        tensors[name] = state
        return {"tensor": name}
    if isinstance(state, Mapping):
        return {str(key): _separate(value, f"{name}.{key}", tensors) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [_separate(value, f"{name}.{index}", tensors) for index, value in enumerate(state)]
    return state


def _join(state: Any, tensors: dict[str, Tensor]) -> Any:
    """Undo `_separate`; keys that are numbers become integers again, tuples stay lists."""
    if isinstance(state, dict):
        if state.keys() == {"tensor"}:
            return tensors[state["tensor"]]
        return {int(key) if key.isdecimal() else key: _join(value, tensors) for key, value in state.items()}
    return [_join(value, tensors) for value in state] if isinstance(state, list) else state
