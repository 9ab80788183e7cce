"""The stack of a pickle that is read without running code, and the instructions that build plain values."""

from __future__ import annotations

from typing import Any

_PUSH = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
})  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class PickleStack:
    """The objects that a pickle has built so far.

    Attributes:
        stack: the objects that are in no other object yet.
        marks: the lengths of the stack at each open MARK.
        memo: objects that were stored to be used again.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def pop(self, count: int) -> list[Any]:
        """Remove the last objects, none of them from below the last mark."""
        start = len(self.stack) - count
        if start < (self.marks or [0])[-1]:
            raise ValueError("it takes more objects than there are")
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pop_to_mark(self) -> list[Any]:
        """Remove the objects behind the last mark, and the mark."""
        if not self.marks:
            raise ValueError("it closes a mark that was never opened")
        items = self.pop(len(self.stack) - self.marks[-1])
        self.marks.pop()
        return items

    def build(self, name: str, operand: Any) -> bool:
        """Carry out an instruction that builds a plain value; return False if it is another one.

        Args:
            name: the instruction, as `pickletools` names it.
            operand: its operand.

        Raises:
            ValueError: If it takes objects that are not there.
        """
        if name in _PUSH:
            self.stack.append(operand)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self.stack.append(tuple(self.pop(_TUPLES[name])))
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name == "EMPTY_LIST":
            self.stack.append([])
        elif name in ("TUPLE", "LIST"):
            items = self.pop_to_mark()
            self.stack.append(tuple(items) if name == "TUPLE" else items)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            (self.memo[len(self.memo) if name == "MEMOIZE" else operand],) = items = self.pop(1)
            self.stack += items
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            if operand not in self.memo:
                raise ValueError("it loads an object that was never stored")
            self.stack.append(self.memo[operand])
        else:
            return name in ("PROTO", "FRAME", "STOP")
        return True
