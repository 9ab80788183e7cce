"""Data in pickles, read without running code: numbers, text, byte strings, lists, tuples and NumPy arrays.

A pickle is a program. The standard library splits it into instructions (`pickletools.genops`, which runs none); this
module follows those that build data, and refuses all others. A few functions that Python and NumPy name in pickles of
such data, for example `_codecs.encode`, are carried out by the functions of this file; no name is ever imported.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfplus.io.limits import limit
from sfplus.io.pickle_stack import PickleStack

_PYTHON_2_STRINGS = frozenset({"STRING", "BINSTRING", "SHORT_BINSTRING"})
_FEW_INSTRUCTIONS, _BYTES_PER_INSTRUCTION = 1_000_000, 16  # of photos and labels; data has few instructions
_ORDERS = ("|", "<", ">", "=")
_MAX_DIMENSIONS, _MAX_SIDE = 32, 1 << 40  # of an array
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|S[1-9]\d{0,8}|O8?", re.ASCII)


@dataclass
class PickledArray:
    """A NumPy array in a pickle.

    Attributes:
        values: the array, or the list of its elements if these are objects; None as long as it has no content.
    """

    values: NDArray[Any] | list[object] | None = None

    def fill(self, shape: object, dtype: object, data: object, order: object) -> None:
        """Set the content from the parts that NumPy writes.

        Raises:
            ValueError: If they do not fit together.
        """
        if not (isinstance(shape, tuple) and isinstance(dtype, _DType) and order in ("C", "F")):
            raise ValueError("an array has no shape or type")
        if len(shape) > _MAX_DIMENSIONS or not all(isinstance(n, int) and 0 <= n < _MAX_SIDE for n in shape):
            raise ValueError("an array has an impossible shape")
        size = math.prod(shape)
        if isinstance(data, list) and dtype.code[0] == "O" and size == len(data):
            self.values = data
        elif isinstance(data, bytes | bytearray) and dtype.code[0] != "O":
            values = np.frombuffer(data, dtype.order + dtype.code) if data else np.zeros(0)
            if values.size != size:
                raise ValueError(f"an array of {size} elements has data for {values.size}")
            self.values = values.reshape(shape, order="F" if order == "F" else "C")
        else:
            raise ValueError("an array has no data")


@dataclass
class _DType:
    """The type of the elements of an array, for example code `u1` and order `|`."""

    code: str
    order: str = "|"


class _Function(NamedTuple):
    """A function or a class that a pickle names, `module name`."""

    name: str


class _State(PickleStack):
    """The objects that a pickle has built so far.

    Attributes:
        budget: number of bytes that may still be converted from text, so that a small file cannot fill the memory.
    """

    def __init__(self, budget: int) -> None:
        super().__init__()
        self.budget = budget


def read_pickled_data(data: bytes) -> object:
    """Return the object of a pickle of any protocol without running any code in it.

    Args:
        data: the pickle.

    Returns:
        The object, of None, bool, int, float, str, bytes, bytearray, list, tuple and `PickledArray`; byte strings of
        Python 2 are bytes.

    Raises:
        ValueError: If it holds other objects, is damaged, or has more instructions than the limit
            `pickle_instructions` or than data needs.
    """
    file, state = io.BytesIO(data), _State(budget=len(data))
    position, most = 0, min(limit("pickle_instructions"), _FEW_INSTRUCTIONS + len(data) // _BYTES_PER_INSTRUCTION)
    try:
        for count, (opcode, operand, at) in enumerate(pickletools.genops(file)):
            if count >= most:
                raise ValueError(f"it has more than {most:,} instructions, too many for its {len(data):,} bytes")
            position = at or 0
            _follow(state, opcode.name, operand)
    except _RefusedError as refused:
        reason = f"contains the pickle instruction {refused} at byte {position:,}"
        raise ValueError(f"{reason}; it may run code, and nothing was run") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"is damaged near byte {position:,} ({error})") from error
    if len(state.stack) != 1 or state.marks or file.tell() != len(data):
        raise ValueError("does not end with a single object")
    return state.stack[0]


def _follow(state: _State, name: str, operand: Any) -> None:
    """Carry out one instruction."""
    stack = state.stack
    if state.build(name, operand):
        return
    if name in _PYTHON_2_STRINGS:
        stack.append(operand.encode("latin-1"))
    elif name in ("APPEND", "APPENDS"):
        items = state.pop(1) if name == "APPEND" else state.pop_to_mark()
        (target,) = state.pop(1)
        if not isinstance(target, list):
            raise ValueError("it appends to an object that is not a list")
        target.extend(items)
        stack.append(target)
    elif name in ("GLOBAL", "STACK_GLOBAL"):
        stack.append(_function(operand if name == "GLOBAL" else " ".join(map(_text, state.pop(2))), name))
    elif name == "REDUCE":
        function, arguments = state.pop(2)
        stack.append(_call(state, function, arguments))
    elif name == "BUILD":
        target, content = state.pop(2)
        stack.append(_build(target, content))
    else:
        raise _RefusedError(name)


class _RefusedError(Exception):
    """An instruction that does not build data."""


def _function(name: str, instruction: str) -> _Function:
    if name not in _FUNCTIONS:
        raise _RefusedError(f"{instruction} ({name[:80].replace(' ', '.')})")
    return _Function(name)


def _call(state: _State, function: object, arguments: object) -> object:
    """Carry out a function that a pickle names with the code of this file."""
    if not (isinstance(function, _Function) and isinstance(arguments, tuple)):
        raise _RefusedError("REDUCE")
    result = _FUNCTIONS[function.name](*arguments)
    if isinstance(result, bytes) and not any(result is value for value in arguments):
        state.budget -= len(result)
        if state.budget < 0:
            raise ValueError("it builds more bytes than it holds")
    return result


def _build(target: object, content: object) -> object:
    """Give an array or a type its content, as NumPy's `__setstate__` does."""
    if isinstance(target, PickledArray) and isinstance(content, tuple) and len(content) == 5:
        _, shape, dtype, is_fortran, data = content
        target.fill(shape, dtype, data, "F" if is_fortran else "C")
    elif isinstance(target, _DType) and isinstance(content, tuple) and len(content) > 1:
        target.order = _text(content[1])
        if target.order not in _ORDERS:
            raise ValueError("an array has elements of an unknown byte order")
    else:
        raise _RefusedError("BUILD")
    return target


def _text(value: object) -> str:
    """Return text; other objects are refused, since a short pickle can build one whose text has no end."""
    if not isinstance(value, str | bytes):
        raise ValueError(f"it has a {type(value).__name__} in place of text")
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _bytes(*arguments: object) -> bytes | bytearray:
    """Carry out `bytes(b"...")`, `bytes()` and `_codecs.encode(text, "latin1")`."""
    value = arguments[0] if arguments else b""
    if isinstance(value, str):
        return value.encode("latin-1")
    if not isinstance(value, bytes | bytearray):
        raise ValueError("bytes are not made of text or bytes")
    return value


def _dtype(code: object, *_: object) -> _DType:
    if not _DTYPE.fullmatch(_text(code)):
        raise ValueError(f"an array has elements of type {_text(code)[:40]}")
    return _DType(_text(code))


def _array_of_buffer(data: object, dtype: object, shape: object, order: object) -> PickledArray:
    array = PickledArray()
    array.fill(shape, dtype, data, order)
    return array


def _scalar(dtype: object, data: object) -> object:
    array = _array_of_buffer(data, dtype, (1,), "C")
    return array.values.tolist()[0] if isinstance(array.values, np.ndarray) else None


def _class(*_: object) -> object:
    raise _RefusedError("REDUCE")  # a class that is only an argument is called


_FUNCTIONS: dict[str, Callable[..., object]] = {
    "_codecs encode": _bytes,
    **{f"{module} {name}": _bytes for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")},
    "numpy dtype": _dtype,
    "numpy ndarray": _class,
    **{f"numpy.{core}.multiarray _reconstruct": lambda *_: PickledArray() for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric _frombuffer": _array_of_buffer for core in ("core", "_core")},
}
