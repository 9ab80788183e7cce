"""insightface's verification sets: a pickle of encoded photos and labels (`lfw.bin`, `agedb_30.bin` ...), read safely.

A pickle is a program. This reader knows the instructions that build lists, tuples, byte strings, truth values and
integers, and refuses every other one, so nothing in the file is ever called (reference: CPython's `pickletools`).
"""

from __future__ import annotations

import hashlib
import pickletools
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfplus.errors import PairsError
from sfplus.io.files import write_atomically

_MOST_BYTES, _MOST_PAIRS, _MOST_STEPS = 2 << 30, 1_000_000, 10_000_000
_LARGEST_IMAGE = 64 << 20
_SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"BM": ".bmp"}
_AGAIN = "get the file again; it must hold (list of encoded photos, list of labels), as insightface packs them"
_NAMES = {ord(info.code): info.name for info in pickletools.opcodes}

# Instructions by their byte: how many bytes of length stand before a byte string, how many an integer has.
_STRINGS = {ord("U"): "<B", ord("T"): "<i", ord("C"): "<B", ord("B"): "<I", 0x8E: "<Q"}
_INTEGERS = {ord("K"): "<B", ord("M"): "<H", ord("J"): "<i"}
_TUPLES = {ord(")"): 0, 0x85: 1, 0x86: 2, 0x87: 3}
_CONSTANTS = {0x88: True, 0x89: False}
_PUT, _GET = {ord("q"): "<B", ord("r"): "<I"}, {ord("h"): "<B", ord("j"): "<I"}


@dataclass(frozen=True, eq=False)
class VerificationBin:
    """A verification set.

    Attributes:
        images: the distinct encoded photos (JPEG or PNG), in the order of the file.
        left: (P,) int64, the left photo of each pair, as an index of `images`.
        right: (P,) int64, the right one.
        same: (P,) bool, whether the pair shows one person.
    """

    images: list[bytes]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    same: NDArray[np.bool_]


def read_bin(path: Path) -> VerificationBin:
    """Read a `.bin` of insightface; nothing in it is executed.

    Raises:
        PairsError: the file cannot be read, is larger than 2 GiB, has more than 1,000,000 pairs, holds anything but
            lists of encoded photos and of labels, or is damaged.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise PairsError(f"is larger than {_MOST_BYTES >> 30} GiB", where=path, remedy=_AGAIN)
        value = _Reader(path.read_bytes(), path).run()
    except OSError as error:
        raise PairsError(f"cannot be read ({error.strerror})", where=path, remedy="check the path") from error
    if not (isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(part, list) for part in value)):
        raise PairsError("does not hold two lists", where=path, remedy=_AGAIN)
    photos, labels = value
    if not labels or len(labels) > _MOST_PAIRS or len(photos) != 2 * len(labels):
        reason = f"holds {len(photos):,} photos and {len(labels):,} labels: there must be two photos to a label"
        raise PairsError(reason, where=path, remedy=_AGAIN)
    for name, part, kind in (("photo", photos, bytes), ("label", labels, int)):
        wrong = next((i for i, item in enumerate(part) if not isinstance(item, kind)), None)
        if wrong is not None:
            reason = f"{name} {wrong} (counted from 0) is no {'byte string' if kind is bytes else 'truth value'}"
            raise PairsError(reason, where=path, remedy=_AGAIN)
    if not set(labels) <= {0, 1}:
        raise PairsError("holds labels other than true and false", where=path, remedy=_AGAIN)
    number: dict[bytes, int] = {}
    images: list[bytes] = []
    rows = np.empty(len(photos), np.int64)
    for i, photo in enumerate(photos):
        if not 0 < len(photo) <= _LARGEST_IMAGE:
            raise PairsError(f"photo {i} (counted from 0) has {len(photo):,} bytes", where=path, remedy=_AGAIN)
        rows[i] = number.setdefault(hashlib.sha256(photo).digest(), len(images))
        if rows[i] == len(images):
            images.append(photo)
    return VerificationBin(images, rows[::2], rows[1::2], np.array(labels, bool))


def bin_name(image: int) -> str:
    """What a photo of a `.bin` is called in its pairs, without extension: its number among the distinct ones."""
    return f"{image:05d}"


def unpack_bin(path: Path, folder: Path) -> int:
    """Write the distinct photos of a `.bin` into a folder, called as `read_pairs` calls them; they are not decoded.

    Returns:
        The number of photos.

    Raises:
        PairsError: as `read_bin`, or a photo is not JPEG, PNG or BMP.
    """
    images = read_bin(path).images
    suffixes = [next((end for magic, end in _SUFFIXES.items() if image.startswith(magic)), "") for image in images]
    if "" in suffixes:
        reason = f"photo {suffixes.index('')} (counted from 0) is not JPEG, PNG or BMP"
        raise PairsError(reason, where=path, remedy=_AGAIN)
    folder.mkdir(parents=True, exist_ok=True)
    for i, (image, suffix) in enumerate(zip(images, suffixes, strict=True)):
        write_atomically(folder / f"{bin_name(i)}{suffix}", image)
    return len(images)


class _Reader:
    """A machine for the harmless instructions of pickle; its memory is bounded by the file and the number of steps."""

    def __init__(self, data: bytes, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        """Read up to STOP and return what was built."""
        for _ in range(_MOST_STEPS):
            (code,) = self._take("<B")
            if code == ord("."):
                if len(self.stack) != 1 or self.marks or self.at != len(self.data):
                    raise self._broken("does not end where its content ends")
                return self.stack[0]
            self._step(code)
        raise self._broken(f"has more than {_MOST_STEPS:,} instructions")

    def _step(self, code: int) -> None:
        if code in _STRINGS:
            self.stack.append(self._bytes(self._take(_STRINGS[code])[0]))
        elif code in _INTEGERS:
            self.stack.append(self._take(_INTEGERS[code])[0])
        elif code in _CONSTANTS:
            self.stack.append(_CONSTANTS[code])
        elif code == ord("I"):
            self.stack.append(self._truth())
        elif code == ord("]"):
            self.stack.append([])
        elif code in _TUPLES:
            self.stack.append(tuple(self._pop(_TUPLES[code])))
        elif code == ord("("):
            self.marks.append(len(self.stack))
        elif code in (ord("t"), ord("l")):
            items = self._since_mark()
            self.stack.append(tuple(items) if code == ord("t") else items)
        elif code in (ord("a"), ord("e")):
            items = self._pop(1) if code == ord("a") else self._since_mark()
            if not self.stack or not isinstance(self.stack[-1], list) or len(self.stack) <= (self.marks or [0])[-1]:
                raise self._broken("appends to what is no list")
            self.stack[-1].extend(items)
        elif code in _PUT or code == 0x94:  # MEMOIZE
            if not self.stack:
                raise self._broken("remembers nothing")
            self.memo[len(self.memo) if code == 0x94 else self._take(_PUT[code])[0]] = self.stack[-1]
        elif code in _GET:
            index = self._take(_GET[code])[0]
            if index not in self.memo:
                raise self._broken("recalls what it never remembered")
            self.stack.append(self.memo[index])
        elif code == 0x80:  # PROTO
            self._take("<B")
        elif code == 0x95:  # FRAME
            self._take("<Q")
        else:
            raise self._refused(code)

    def _take(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(layout, self._bytes(struct.calcsize(layout)))

    def _bytes(self, size: int) -> bytes:
        if not 0 <= size <= len(self.data) - self.at:
            raise self._broken("is cut short")
        self.at += size
        return self.data[self.at - size : self.at]

    def _truth(self) -> bool:
        """`I01` and `I00`, the truth values of protocols 0 and 1."""
        text = self._bytes(min(3, len(self.data) - self.at))
        if text not in (b"01\n", b"00\n"):
            raise self._broken("holds a number where a truth value belongs")
        return text == b"01\n"

    def _pop(self, count: int) -> list[object]:
        floor = self.marks[-1] if self.marks else 0
        if len(self.stack) - count < floor:
            raise self._broken("takes more than it has")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def _since_mark(self) -> list[object]:
        if not self.marks:
            raise self._broken("closes what it never opened")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _broken(self, reason: str) -> PairsError:
        return PairsError(f"{reason} (near byte {self.at:,})", where=self.path, remedy=_AGAIN)

    def _refused(self, code: int) -> PairsError:
        name = _NAMES.get(code, f"0x{code:02x}")
        reason = f"holds the pickle instruction {name} at byte {self.at - 1:,}; it may run code, and nothing was run"
        remedy = "only lists, tuples, byte strings, integers and truth values are read: " + _AGAIN
        return PairsError(reason, where=self.path, remedy=remedy)
