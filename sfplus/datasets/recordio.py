"""insightface's training sets: MXNet RecordIO (`train.rec`, `train.idx`), read without MXNet and without pickle.

A record is the word 0xced7230a, a word with a flag (3 bits) and a length (29 bits), as many bytes, and padding to a
multiple of four. Where the magic word stands at a multiple of four inside the bytes, it is left out and the record is
split there; flags are 0 for a whole record, 1, 2, 3 for its first, middle, last part. Source: dmlc-core, recordio.h.

The bytes are a header (flag uint32, label float32, two ids uint64; if the flag is not 0, as many float32 labels follow)
and the encoded picture. Source: mxnet/recordio.py.

Record 0 of insightface holds two labels: one more than the number of pictures, which are the records 1, 2, ..., and the
end of the records after them, which say which pictures are of one person. These are not needed: each picture has its
label. Source: insightface, arcface_torch/dataset.py.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from sfplus.datasets.records import LARGEST, Item, numbered
from sfplus.errors import DatasetError, PhotoError

_MAGIC = 0xCED7230A
_WORD = struct.pack("<I", _MAGIC)
_LENGTH = (1 << 29) - 1
_HEADER = struct.Struct("<IfQQ")
_MOST_LABELS, _MOST_PARTS, _MOST_INDEX = 1024, 1024, 1 << 30
_AGAIN = "get the file again; it must be MXNet RecordIO, as insightface packs its training sets"

Numbers = NDArray[np.int64]


class RecordIO:
    """The pictures of a `.rec` file, in the order of their numbers; people are the labels in seven digits.

    The places of records are read from the `.idx` file beside it; without one the file is gone through once.

    Args:
        root: the `.rec` file.

    Raises:
        DatasetError: a file is cut short, damaged or none of this format.
    """

    kind = "RecordIO"
    remarks = ()

    def __init__(self, root: Path) -> None:
        self.root, self._index = root, root.with_suffix(".idx")
        try:
            self._size = root.stat().st_size
            with root.open("rb") as file:
                if self._index.is_file():
                    numbers, places = self._listed()
                else:
                    numbers, places = self._found(file)
                self._check_end(file, int(places.max()))
                self._numbers, self._places = self._pictures(file, numbers, places)
        except OSError as error:
            raise DatasetError(f"cannot be read ({error.strerror})", where=root, remedy="check the path") from error

    def files(self) -> list[Path]:
        """The `.rec` and, where there is one, the `.idx`."""
        return [file for file in (self.root, self._index) if file.is_file()]

    def __len__(self) -> int:
        return len(self._numbers)

    def items(self, start: int = 0) -> Iterator[Item]:
        """The pictures from number `start` (counted from 0) on; a damaged record comes as an item that says so."""
        with self.root.open("rb") as file:
            for number, place in zip(self._numbers[start:].tolist(), self._places[start:].tolist(), strict=True):
                yield self._item(file, number, place)

    def _item(self, file: BinaryIO, number: int, place: int) -> Item:
        name = f"record {number}"
        try:
            labels, picture = _split(_record(file, place), name)
            person = numbered(labels[0], name)
            return Item(f"{person}/{number}", person, picture)
        except PhotoError as error:
            return Item(name, "", error)

    def _listed(self) -> tuple[Numbers, Numbers]:
        """Numbers and places of the records, from the index."""
        reason = "is no index: each of its lines must hold a number, a tab and a place in the .rec file"
        try:
            if self._index.stat().st_size > _MOST_INDEX:
                raise DatasetError(f"is larger than {_MOST_INDEX >> 30} GiB", where=self._index, remedy=_AGAIN)
            with warnings.catch_warnings(action="ignore"):  # of an empty file
                table = np.loadtxt(self._index, np.int64, comments=None, delimiter="\t", ndmin=2)
        except (ValueError, OverflowError) as error:
            raise DatasetError(reason, where=self._index, remedy=_AGAIN) from error
        if table.ndim != 2 or table.shape[1] != 2 or not len(table) or len(np.unique(table[:, 0])) < len(table):
            raise DatasetError(reason, where=self._index, remedy=_AGAIN)
        outside = (table[:, 1] < 0) | (table[:, 1] > self._size - 8)
        if outside.any():
            number, place = table[outside][0].tolist()
            reason = f"is cut short: record {number} begins at byte {place:,} of {self._size:,}"
            raise DatasetError(reason, where=self.root, remedy="get it and its .idx again; they belong together")
        return table[:, 0], table[:, 1]

    def _found(self, file: BinaryIO) -> tuple[Numbers, Numbers]:
        """The same from the file itself: records are numbered as they come."""
        places, at, open_ = [], 0, False
        while at < self._size:
            try:
                flag, length = _part(file, at, open_)
            except PhotoError as error:
                raise DatasetError(error.reason, where=self.root, remedy=_AGAIN) from None
            if not open_:
                places.append(at)
            open_ = flag in (1, 2)
            at += 8 + (length + 3 & ~3)
        if not places:
            raise DatasetError("is empty", where=self.root, remedy=_AGAIN)
        return np.arange(len(places)), np.array(places)

    def _check_end(self, file: BinaryIO, place: int) -> None:
        """A download that broke off lacks its end: say so at once, not after hours."""
        try:
            _record(file, place)
        except PhotoError as error:
            raise DatasetError(error.reason, where=self.root, remedy=_AGAIN) from None

    def _pictures(self, file: BinaryIO, numbers: Numbers, places: Numbers) -> tuple[Numbers, Numbers]:
        """Those records that are pictures, by their numbers."""
        order = np.argsort(numbers)
        numbers, places = numbers[order], places[order]
        try:
            labels, _ = _split(_record(file, int(places[0])), f"record {numbers[0]}")
        except PhotoError as error:
            raise DatasetError(f"record {numbers[0]} {error.reason}", where=self.root, remedy=_AGAIN) from None
        if numbers[0] != 0 or len(labels) == 1:
            return numbers, places
        end = labels[0]
        if not 1 < end <= int(numbers[-1]) + 1:
            reason = f"its first record speaks of {end - 1:g} pictures, the index of {int(numbers[-1]):,}"
            raise DatasetError(reason, where=self.root, remedy=_AGAIN)
        chosen = (numbers > 0) & (numbers < end)
        return numbers[chosen], places[chosen]


def _part(file: BinaryIO, at: int, inside: bool) -> tuple[int, int]:
    """Flag and length of the part at a place; the file stands at its bytes then."""
    file.seek(at)
    words = file.read(8)
    if len(words) < 8:
        raise PhotoError(f"is cut short at byte {at:,}")
    magic, word = struct.unpack("<II", words)
    flag, length = word >> 29, word & _LENGTH
    if magic != _MAGIC or flag > 3 or (flag in (2, 3)) != inside:
        raise PhotoError(f"holds no record at byte {at:,}", remedy=_AGAIN)
    return flag, length


def _record(file: BinaryIO, at: int) -> bytes:
    """The bytes of the record at a place, its parts joined; at most 64 MiB."""
    parts: list[bytes] = []
    size = 0
    while len(parts) < _MOST_PARTS:
        flag, length = _part(file, at, bool(parts))
        size += length
        if size > LARGEST:
            break
        data = file.read(length)
        if len(data) < length:
            raise PhotoError(f"is cut short: the record at byte {at:,} lacks its end")
        parts.append(data)
        if flag in (0, 3):
            return _WORD.join(parts)
        at += 8 + (length + 3 & ~3)
    raise PhotoError(f"holds a record of more than {LARGEST >> 20} MiB or {_MOST_PARTS} parts near byte {at:,}")


def _split(record: bytes, name: str) -> tuple[list[float], bytes]:
    """Labels and encoded picture."""
    if len(record) < _HEADER.size:
        raise PhotoError("is too short to hold a label", where=name, remedy=_AGAIN)
    flag, label, _, _ = _HEADER.unpack_from(record)
    if flag == 0:
        return [label], record[_HEADER.size :]
    end = _HEADER.size + 4 * flag
    if flag > _MOST_LABELS or end > len(record):
        raise PhotoError(f"speaks of {flag} labels, which it does not hold", where=name, remedy=_AGAIN)
    return list(struct.unpack_from(f"<{flag}f", record, _HEADER.size)), record[end:]
