"""The pickle in a file of `torch.save`, read without running code: mappings, lists and descriptions of tensors.

The standard library splits a pickle into instructions (`pickletools.genops`, which runs none); this module follows
those that build data. No name is imported, nothing is hashed but texts and numbers, and no memory is used for a tensor.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import torch

from sfplus.io.limits import limit
from sfplus.io.pickle_stack import PickleStack
from sfplus.weights.checkpoint_tensors import Storage, StoredTensor, describe_storage, describe_tensor

Key = str | int | float | bool | None

_PUSH = frozenset({"LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING"})  # others than in `PickleStack`
_MAPPINGS = re.compile(
    r"(collections\.(OrderedDict|defaultdict)|builtins\.dict"
    r"|(pytorch_lightning\.utilities\.parsing|lightning\.pytorch\.utilities\.parsing"
    r"|lightning(_|\.)fabric\.utilities\.data)\.AttributeDict"
    r"|(easydict|yacs\.config|addict|munch|box|mmengine\.config|mmcv\.utils\.config)\..+)"
)
_HARMLESS = re.compile(  # objects that are often stored beside weights; nothing of them is created
    r"(argparse|numpy|pathlib|datetime|decimal|torchmetrics|ml_collections|omegaconf|torch\.optim"
    r"|pytorch_lightning\.callbacks|lightning\.pytorch\.callbacks)\..+|types\.SimpleNamespace|collections\.(Counter|deque)"
    r"|builtins\.(slice|x?range|complex|list|tuple|int|float|str|bool|set|frozenset|bytes|bytearray|object)|_codecs\.encode"
    r"|torch\.(Size|device|Tensor|[a-z]+\d+\w*|bool|float|double|half|long|int|short|strided|per_\w+)"
    r"|torch\.(nn\.parameter\.Parameter|serialization\._get_layout)"
    r"|torch(\.cuda)?\.\w+Storage|torch\.storage\.\w+Storage"
)
_OTHER_TENSORS = re.compile(r"torch\.(_utils|_tensor)\._rebuild_\w+")


class BlockedError(Exception):
    """A pickle that would call what is not data; the argument is its full name."""


class _Global(NamedTuple):
    """A function or class that a pickle names."""

    name: str


class _Other:
    """Stands for an object that is not needed."""


_OTHER = _Other()


def read_pickle(file: IO[bytes], storages: dict[str, Storage] | None = None) -> Any:
    """Return the object of the next pickle in a file.

    Args:
        file: at the start of the pickle; at its end afterwards.
        storages: gets all storages that the pickle refers to, by their keys.

    Returns:
        Mappings, lists, tuples, texts, numbers, `StoredTensor`, and placeholders for everything else.

    Raises:
        BlockedError: If it would call what is not data.
        ValueError: If it is damaged, or has more instructions than the limit `pickle_instructions`.
    """
    machine, most = _Machine({} if storages is None else storages), limit("pickle_instructions")
    for count, (opcode, operand, _) in enumerate(pickletools.genops(file)):
        if count >= most:
            raise ValueError(f"it has more than {most:,} instructions")
        machine.follow(opcode.name, operand)
    (result,) = machine.pop(1)
    return result


class _Machine(PickleStack):
    """The objects that a pickle has built so far."""

    def __init__(self, storages: dict[str, Storage]) -> None:
        super().__init__()
        self.storages = storages

    def follow(self, name: str, operand: Any) -> None:
        """Carry out one instruction."""
        if self.build(name, operand):
            return
        if name in _PUSH:
            self.stack.append(operand)
        elif name in _CONTAINERS:
            _CONTAINERS[name](self)
        elif name == "GLOBAL":
            self.stack.append(_find_global(operand))
        elif name == "REDUCE":
            self.stack.append(_call(*self.pop(2)))
        else:
            raise ValueError(f"it has the instruction {name}")

    def add_items(self, items: list[Any]) -> None:
        """Add keys and values to the mapping that is last; keys that are no text or number are left out."""
        (target,) = self.pop(1)
        if isinstance(target, dict):
            target.update((k, v) for k, v in zip(items[::2], items[1::2], strict=True) if isinstance(k, Key))
        self.stack.append(target)

    def extend(self, items: list[Any]) -> None:
        """Add objects to the list that is last."""
        (target,) = self.pop(1)
        if isinstance(target, list):
            target.extend(items)
        self.stack.append(target)

    def create(self, count: int) -> None:
        """Create the object of a class with arguments."""
        kind, arguments, *_ = self.pop(count)
        self.stack.append(_call(kind, arguments))

    def refer(self, reference: Any) -> None:
        """Add the storage that a persistent id names."""
        storage = _storage(reference)
        if storage:
            self.storages.setdefault(storage.key, storage)
        self.stack.append(storage)

    def put(self, value: Any) -> None:
        """Add an object."""
        self.stack.append(value)


def _make_mapping(machine: _Machine) -> None:
    items = machine.pop_to_mark()
    machine.put({})
    machine.add_items(items)


_CONTAINERS: dict[str, Callable[[_Machine], object]] = {
    "EMPTY_DICT": lambda machine: machine.put({}),
    "EMPTY_SET": lambda machine: machine.put(_OTHER),
    "DICT": _make_mapping,
    "FROZENSET": lambda machine: machine.put((machine.pop_to_mark(), _OTHER)[1]),
    "APPEND": lambda machine: machine.extend(machine.pop(1)),
    "APPENDS": lambda machine: machine.extend(machine.pop_to_mark()),
    "ADDITEMS": lambda machine: machine.pop_to_mark(),
    "SETITEM": lambda machine: machine.add_items(machine.pop(2)),
    "SETITEMS": lambda machine: machine.add_items(machine.pop_to_mark()),
    "BUILD": lambda machine: machine.pop(1),  # attributes are not needed
    "POP": lambda machine: machine.pop(1),
    "NEWOBJ": lambda machine: machine.create(2),
    "NEWOBJ_EX": lambda machine: machine.create(3),
    "STACK_GLOBAL": lambda machine: machine.put(_find_global(" ".join(map(_text, machine.pop(2))))),
    "BINPERSID": lambda machine: machine.refer(*machine.pop(1)),
}


def _find_global(operand: str) -> _Global:
    name = operand.replace(" ", ".", 1).replace("__builtin__.", "builtins.", 1)
    if not any(pattern.fullmatch(name) for pattern in (_MAPPINGS, _HARMLESS, _OTHER_TENSORS)):
        raise BlockedError(name)
    return _Global(name)


def _call(function: object, arguments: object) -> object:
    """Return what a harmless function returns, as far as it is needed."""
    if not isinstance(function, _Global) or not isinstance(arguments, tuple):
        raise ValueError("it calls what is no function")
    if _MAPPINGS.fullmatch(function.name):
        pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
        pairs = [pair for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2]
        return {key: value for key, value in pairs if isinstance(key, Key)}
    if rebuild := _TENSORS.get(function.name):
        try:
            return rebuild(*arguments)
        except TypeError:
            raise ValueError("a tensor has other parts than it needs") from None
    return StoredTensor(None) if _OTHER_TENSORS.fullmatch(function.name) else _OTHER


def _tensor(storage: object, offset: object, shape: object, strides: object, *further: object) -> StoredTensor:
    """Describe the tensor of `torch._utils._rebuild_tensor_v2`, or of an earlier or later version."""
    dtype = further[2] if len(further) > 2 else None  # of `_rebuild_tensor_v3`, whose storage has no type
    name = dtype.name.removeprefix("torch.") if isinstance(dtype, _Global) else ""
    return describe_tensor(storage, offset, shape, strides, getattr(torch, name, None) if name else None)


def _first(tensor: object, *_: object) -> object:
    """Return the tensor of a parameter."""
    return tensor


def _of_type(function: object, _: object, arguments: object, *__: object) -> object:
    """Return the tensor of a subclass of Tensor."""
    return _call(function, arguments)


_TENSORS: dict[str, Callable[..., object]] = {
    **{f"torch._utils._rebuild_tensor{version}": _tensor for version in ("", "_v2", "_v3")},
    **{f"torch._utils._rebuild_parameter{version}": _first for version in ("", "_with_state")},
    **{f"torch._tensor._rebuild_from_type{version}": _of_type for version in ("", "_v2")},
    "torch.nn.parameter.Parameter": _first,
}


def _storage(reference: object) -> Storage | None:
    """Return the storage that a persistent id names."""
    if not isinstance(reference, tuple) or len(reference) < 5 or _text(reference[0]) != "storage":
        raise ValueError("it refers to something that is no storage")
    _, kind, key, _, count, *view = reference
    name = kind.name.rpartition(".")[2] if isinstance(kind, _Global) else ""
    start = 0
    if view and isinstance(view[0], tuple) and len(view[0]) == 3:
        _, start, count = view[0]
    return describe_storage(_text(key), name, count, start)


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else "?"
