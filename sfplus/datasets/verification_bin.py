"""Verification sets of insightface (`lfw.bin`, `agedb_30.bin`, ...): pickles of encoded photos and labels, read safely.

A pickle is a program. This reader only executes the instructions that build lists, tuples, byte strings, booleans and
integers, and rejects all others, so that no code in the file is run (reference: CPython's `pickletools`).
"""

from __future__ import annotations

import hashlib
import pickletools
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfplus.datasets.records import MAX_IMAGE_BYTES
from sfplus.errors import PairsError
from sfplus.io.files import write_atomically

BIN_SUFFIX = ".bin"
_MAX_BYTES, _MAX_PAIRS, _MAX_INSTRUCTIONS = 2 << 30, 1_000_000, 10_000_000
_SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"BM": ".bmp"}
_REMEDY = "get the file again; it must contain (list of encoded photos, list of labels), as insightface writes them"
_OPCODE_NAMES = {ord(info.code): info.name for info in pickletools.opcodes}

# Opcodes with the layout of their operand: the length of a byte string, the value of an integer, the key of the memo.
_STRINGS = {ord("U"): "<B", ord("T"): "<i", ord("C"): "<B", ord("B"): "<I", 0x8E: "<Q"}
_INTEGERS = {ord("K"): "<B", ord("M"): "<H", ord("J"): "<i"}
_TUPLES = {ord(")"): 0, 0x85: 1, 0x86: 2, 0x87: 3}
_CONSTANTS = {0x88: True, 0x89: False}
_PUT, _GET = {ord("q"): "<B", ord("r"): "<I"}, {ord("h"): "<B", ord("j"): "<I"}


@dataclass(frozen=True, eq=False)
class VerificationBin:
    """A verification set.

    Attributes:
        images: distinct encoded photos (JPEG or PNG), in the order of the file.
        left: (P,) int64, the left photo of each pair, as an index into `images`.
        right: (P,) int64, the right photo.
        same: (P,) bool, True if both photos show the same person.
    """

    images: list[bytes]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    same: NDArray[np.bool_]


def read_bin(path: Path) -> VerificationBin:
    """Read a `.bin` file of insightface without running any code in it.

    Raises:
        PairsError: If the file cannot be read, is damaged, is larger than 2 GiB, has more than 1,000,000 pairs, or
            contains anything but a list of encoded photos and a list of labels.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise PairsError(f"is larger than {_MAX_BYTES >> 30} GiB", where=path, remedy=_REMEDY)
        value = _PickleReader(path.read_bytes(), path).run()
    except OSError as error:
        raise PairsError(f"cannot be read ({error.strerror})", where=path, remedy="check the path") from error
    if not (isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(part, list) for part in value)):
        raise PairsError("does not contain two lists", where=path, remedy=_REMEDY)
    photos, labels = value
    if not labels or len(labels) > _MAX_PAIRS or len(photos) != 2 * len(labels):
        reason = f"contains {len(photos):,} photos and {len(labels):,} labels: there must be two photos per label"
        raise PairsError(reason, where=path, remedy=_REMEDY)
    for name, values, kind in (("photo", photos, bytes), ("label", labels, int)):
        invalid = next((i for i, value in enumerate(values) if not isinstance(value, kind)), None)
        if invalid is not None:
            reason = f"{name} {invalid} (counted from 0) is not a {'byte string' if kind is bytes else 'boolean'}"
            raise PairsError(reason, where=path, remedy=_REMEDY)
    if not set(labels) <= {0, 1}:
        raise PairsError("contains labels other than true and false", where=path, remedy=_REMEDY)
    index_of: dict[bytes, int] = {}
    images: list[bytes] = []
    indices = np.empty(len(photos), np.int64)
    for i, photo in enumerate(photos):
        if not 0 < len(photo) <= MAX_IMAGE_BYTES:
            raise PairsError(f"photo {i} (counted from 0) has {len(photo):,} bytes", where=path, remedy=_REMEDY)
        indices[i] = index_of.setdefault(hashlib.sha256(photo).digest(), len(images))
        if indices[i] == len(images):
            images.append(photo)
    return VerificationBin(images, indices[::2], indices[1::2], np.array(labels, bool))


def image_name(index: int) -> str:
    """Return the name of a photo of a `.bin` file in its pairs: its index among the distinct photos, in five digits."""
    return f"{index:05d}"


def unpack_bin(path: Path, folder: Path) -> int:
    """Write the distinct photos of a `.bin` file into a folder, without decoding them, under the names of its pairs.

    Returns:
        The number of photos.

    Raises:
        PairsError: If `read_bin` raises it, or a photo is not JPEG, PNG or BMP.
    """
    images = read_bin(path).images
    suffixes = [next((end for magic, end in _SUFFIXES.items() if image.startswith(magic)), "") for image in images]
    if "" in suffixes:
        reason = f"photo {suffixes.index('')} (counted from 0) is not JPEG, PNG or BMP"
        raise PairsError(reason, where=path, remedy=_REMEDY)
    folder.mkdir(parents=True, exist_ok=True)
    for i, (image, suffix) in enumerate(zip(images, suffixes, strict=True)):
        write_atomically(folder / f"{image_name(i)}{suffix}", image)
    return len(images)


class _PickleReader:
    """An interpreter of the harmless pickle instructions.

    Its memory is bounded by the size of the file and the number of instructions.
    """

    def __init__(self, data: bytes, path: Path) -> None:
        self.data, self.path, self.position = data, path, 0
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        """Execute instructions up to STOP and return the object on the stack."""
        for _ in range(_MAX_INSTRUCTIONS):
            (code,) = self._take("<B")
            if code == ord("."):
                if len(self.stack) != 1 or self.marks or self.position != len(self.data):
                    raise self._error("does not end with a single object")
                return self.stack[0]
            self._execute(code)
        raise self._error(f"has more than {_MAX_INSTRUCTIONS:,} instructions")

    def _execute(self, code: int) -> None:
        if code in _STRINGS:
            self.stack.append(self._bytes(self._take(_STRINGS[code])[0]))
        elif code in _INTEGERS:
            self.stack.append(self._take(_INTEGERS[code])[0])
        elif code in _CONSTANTS:
            self.stack.append(_CONSTANTS[code])
        elif code == ord("I"):
            self.stack.append(self._take_boolean())
        elif code == ord("]"):
            self.stack.append([])
        elif code in _TUPLES:
            self.stack.append(tuple(self._pop(_TUPLES[code])))
        elif code == ord("("):
            self.marks.append(len(self.stack))
        elif code in (ord("t"), ord("l")):
            items = self._pop_to_mark()
            self.stack.append(tuple(items) if code == ord("t") else items)
        elif code in (ord("a"), ord("e")):
            items = self._pop(1) if code == ord("a") else self._pop_to_mark()
            if not self.stack or not isinstance(self.stack[-1], list) or len(self.stack) <= (self.marks or [0])[-1]:
                raise self._error("appends to an object that is not a list")
            self.stack[-1].extend(items)
        elif code in _PUT or code == 0x94:  # MEMOIZE
            if not self.stack:
                raise self._error("stores an object that does not exist")
            self.memo[len(self.memo) if code == 0x94 else self._take(_PUT[code])[0]] = self.stack[-1]
        elif code in _GET:
            index = self._take(_GET[code])[0]
            if index not in self.memo:
                raise self._error("loads an object that was never stored")
            self.stack.append(self.memo[index])
        elif code == 0x80:  # PROTO
            self._take("<B")
        elif code == 0x95:  # FRAME
            self._take("<Q")
        else:
            raise self._forbidden(code)

    def _take(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(layout, self._bytes(struct.calcsize(layout)))

    def _bytes(self, size: int) -> bytes:
        if not 0 <= size <= len(self.data) - self.position:
            raise self._error("is cut short")
        self.position += size
        return self.data[self.position - size : self.position]

    def _take_boolean(self) -> bool:
        """Read `01` or `00`, the booleans of protocols 0 and 1."""
        text = self._bytes(min(3, len(self.data) - self.position))
        if text not in (b"01\n", b"00\n"):
            raise self._error("contains a number instead of a boolean")
        return text == b"01\n"

    def _pop(self, count: int) -> list[object]:
        floor = self.marks[-1] if self.marks else 0
        if len(self.stack) - count < floor:
            raise self._error("takes more objects than the stack has")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def _pop_to_mark(self) -> list[object]:
        if not self.marks:
            raise self._error("closes a mark that was never opened")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _error(self, reason: str) -> PairsError:
        return PairsError(f"{reason} (near byte {self.position:,})", where=self.path, remedy=_REMEDY)

    def _forbidden(self, code: int) -> PairsError:
        name = _OPCODE_NAMES.get(code, f"0x{code:02x}")
        instruction = f"{name} at byte {self.position - 1:,}"
        reason = f"contains the pickle instruction {instruction}; it may run code, and nothing was run"
        remedy = "only lists, tuples, byte strings, integers and booleans are read: " + _REMEDY
        return PairsError(reason, where=self.path, remedy=remedy)
