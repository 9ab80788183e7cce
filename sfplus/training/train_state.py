"""The state of a training in one process: tensors and numbers, whatever the optimizers, the shards made whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sfplus.hypersphere import ShardedHead


class Stateful(Protocol):
    """What has a state of tensors and numbers: an optimizer, a gradient scaler."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take on a state."""
        ...


@dataclass(frozen=True)
class State:
    """What modules and optimizers hold.

    Attributes:
        modules: parameters and buffers by the names of `state_dict()`; those of a class-parallel classifier are what
            the whole one has, so that any number of processes can go on.
        optimizers: their tensors.
        numbers: by the name of the optimizer, the rest of its state, ready for JSON.
    """

    modules: dict[str, Tensor]
    optimizers: dict[str, Tensor]
    numbers: dict[str, Any]


def collect(module: nn.Module, optimizers: Mapping[str, Stateful]) -> State | None:
    """The state; with shards all processes call this together, and those but the first get None."""
    modules = dict(module.state_dict())
    for name, head in shards(module):
        for key in head.state_dict():
            del modules[f"{name}.{key}"]
        full = head.full_state() or {}
        modules |= {f"{name}.{key}": value for key, value in full.items()}
    tensors: dict[str, Tensor] = {}
    numbers = {}
    for name, optimizer in optimizers.items():
        state = optimizer.state_dict()
        for head, number, parameter in _sharded_parameters(module, optimizer):
            held = state["state"].get(number, {})
            rows = {key: head.gather_rows(value) for key, value in held.items() if _is_like(value, parameter)}
            state["state"][number] = {**held, **rows}
        numbers[name] = _take_out(state, name, tensors)
    first = all(head.ranks.rank == 0 for _, head in shards(module))
    return State(modules, tensors, numbers) if first else None


def restore(state: State, module: nn.Module, optimizers: Mapping[str, Stateful]) -> None:
    """Bring modules and optimizers to a state; each process alone.

    Raises:
        KeyError, RuntimeError, ValueError: it is that of other modules or optimizers.
    """
    if state.numbers.keys() != optimizers.keys():
        raise ValueError(f"its optimizers are {', '.join(state.numbers)}")
    modules = dict(state.modules)
    for name, head in shards(module):
        keys = [key for key in modules if key.startswith(f"{name}.")]
        head.load_full_state({key.removeprefix(f"{name}."): modules.pop(key) for key in keys})
        modules |= {f"{name}.{key}": value for key, value in head.state_dict().items()}
    module.load_state_dict(modules)
    for name, optimizer in optimizers.items():
        given = _put_back(state.numbers[name], state.optimizers)
        heads = {number: head for head, number, _ in _sharded_parameters(module, optimizer)}
        for number, parameter in enumerate(_parameters(optimizer)):
            for key, value in given["state"].get(number, {}).items():
                own = torch.empty_like(parameter, requires_grad=False)
                if number in heads and isinstance(value, Tensor) and value.ndim:
                    heads[number].load_rows(own, value)
                elif _is_like(value, parameter):
                    own.copy_(value)  # in the memory format of its parameter, which safetensors does not keep
                else:
                    continue
                given["state"][number][key] = own
        optimizer.load_state_dict(given)


def shards(module: nn.Module) -> Iterator[tuple[str, ShardedHead]]:
    """The class-parallel classifiers in a module, with their names."""
    return ((name, part) for name, part in module.named_modules() if isinstance(part, ShardedHead))


def _parameters(optimizer: Stateful) -> list[nn.Parameter]:
    groups = optimizer.param_groups if isinstance(optimizer, torch.optim.Optimizer) else []
    return [parameter for group in groups for parameter in group["params"]]


def _sharded_parameters(module: nn.Module, optimizer: Stateful) -> Iterator[tuple[ShardedHead, int, nn.Parameter]]:
    """The shards among an optimizer's parameters, with their places in its state."""
    for _, head in shards(module):
        for number, parameter in enumerate(_parameters(optimizer)):
            if parameter is head.head.weight:
                yield head, number, parameter


def _is_like(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _take_out(state: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A state for JSON: its tensors go to `tensors`, by their path, and leave {"tensor": path}."""
    if isinstance(state, Tensor):
        tensors[name] = state
        return {"tensor": name}
    if isinstance(state, Mapping):
        return {str(key): _take_out(value, f"{name}.{key}", tensors) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [_take_out(value, f"{name}.{number}", tensors) for number, value in enumerate(state)]
    return state


def _put_back(state: Any, tensors: dict[str, Tensor]) -> Any:
    """What `_take_out` took apart; keys that are numbers are numbers again, tuples stay lists."""
    if isinstance(state, dict):
        if state.keys() == {"tensor"}:
            return tensors[state["tensor"]]
        return {int(key) if key.isdecimal() else key: _put_back(value, tensors) for key, value in state.items()}
    return [_put_back(value, tensors) for value in state] if isinstance(state, list) else state
