"""Training sets of insightface: MXNet RecordIO (`train.rec`, `train.idx`), read without MXNet and without pickle.

A record is the word 0xced7230a, a word with a flag (3 bits) and a length (29 bits), the payload, and padding to a
multiple of four bytes. Where the magic word occurs in the payload at a multiple of four, it is left out and the record
is split there; the flag is 0 for a whole record and 1, 2, 3 for the first, a middle and the last part of a split one.
Source: dmlc-core, recordio.h.

The payload is a header (flag uint32, label float32, two ids uint64; if the flag is not 0, this many float32 labels
follow) and the encoded image. Source: mxnet/recordio.py.

Record 0 of insightface has two labels. The first is the number of images plus one; the images are the records 1, 2, ...
The second is the end of the records after them, which list the images of each person; they are not needed, since
each image has its label. Source: insightface, arcface_torch/dataset.py.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from sfplus.datasets.records import PhotoCollection, Record, person_from_number
from sfplus.datasets.shards import list_shards
from sfplus.errors import DatasetError, PhotoError
from sfplus.io.files import file_size
from sfplus.io.limits import check_limit

_MAGIC = 0xCED7230A
_MAGIC_BYTES = struct.pack("<I", _MAGIC)
_LENGTH_MASK = (1 << 29) - 1
_HEADER = struct.Struct("<IfQQ")
_MAX_LABELS, _MAX_PARTS = 1024, 1024
_REMEDY = "get the file again; it must be MXNet RecordIO, as insightface packs its training sets"

Integers = NDArray[np.int64]


class RecordIO(PhotoCollection):
    """The images of a `.rec` file, sorted by record number; people are the labels, padded to seven digits.

    Offsets of the records are read from the `.idx` file of the same name; without it, the `.rec` file is scanned once.

    Args:
        root: the `.rec` file.

    Raises:
        DatasetError: If a file is truncated, damaged or not in this format.
    """

    kind = "RecordIO"
    accepts = "a .rec file"
    priority = 1

    def __init__(self, root: Path) -> None:
        self.root, self._index = root, root.with_suffix(".idx")
        with _explain(root):
            self._size = file_size(root)
            with root.open("rb") as file:
                numbers, offsets = self._read_index() if self._index.is_file() else self._scan(file)
                self._bounds = np.append(np.sort(offsets), self._size)
                self._check_last_record(file, int(offsets.max()))
                self._numbers, self._offsets = self._select_images(file, numbers, offsets)

    @classmethod
    def open(cls, path: Path, split: str) -> RecordIO | None:
        """Open a `.rec` file, or a folder that contains one."""
        if path.is_file():
            return cls(path) if path.suffix == ".rec" else None
        files = list_shards(path, "*.rec")
        if len(files) > 1:
            raise DatasetError(f"contains {len(files)} .rec files", where=path, remedy="give one of them")
        return cls(files[0]) if files else None

    def files(self) -> list[Path]:
        """Return the `.rec` file and, if it exists, the `.idx` file."""
        return [file for file in (self.root, self._index) if file.is_file()]

    def __len__(self) -> int:
        return len(self._numbers)

    def records(self, start: int = 0) -> Iterator[Record]:
        """Yield the images from number `start` (counted from 0) on."""
        with _explain(self.root), self.root.open("rb") as file:
            for number, offset in zip(self._numbers[start:].tolist(), self._offsets[start:].tolist(), strict=True):
                yield self._record(file, number, offset)

    def _record(self, file: BinaryIO, number: int, offset: int) -> Record:
        name = f"record {number}"
        try:
            labels, image = _split_payload(self._read_payload(file, offset), name)
            person = person_from_number(labels[0], name)
            return Record(f"{person}/{number}", person, image)
        except PhotoError as error:
            return Record(name, "", error)

    def _read_index(self) -> tuple[Integers, Integers]:
        """Return the numbers and offsets of the records from the `.idx` file."""
        reason = "is not an index: each line must contain a number, a tab and an offset in the .rec file"
        try:
            check_limit("recordio_index_bytes", file_size(self._index), self._index, error=DatasetError)
            with warnings.catch_warnings(action="ignore"):  # NumPy warns about an empty file
                table = np.loadtxt(self._index, np.int64, comments=None, delimiter="\t", ndmin=2)
        except (ValueError, OverflowError) as error:
            raise DatasetError(reason, where=self._index, remedy=_REMEDY) from error
        if table.ndim != 2 or table.shape[1] != 2 or not len(table):
            raise DatasetError(reason, where=self._index, remedy=_REMEDY)
        for column, what in ((0, "number"), (1, "offset")):
            if len(np.unique(table[:, column])) < len(table):
                raise DatasetError(f"lists a record twice, by its {what}", where=self._index, remedy=_REMEDY)
        outside = (table[:, 1] < 0) | (table[:, 1] > self._size - 8)
        if outside.any():
            number, offset = table[outside][0].tolist()
            reason = f"is cut short: record {number} begins at byte {offset:,} of {self._size:,}"
            raise DatasetError(reason, where=self.root, remedy="get it and its .idx again; they belong together")
        return table[:, 0], table[:, 1]

    def _read_payload(self, file: BinaryIO, offset: int) -> bytes:
        """Return the payload of a record, which ends before the next one, so that no byte is read twice."""
        return _read_payload(file, offset, int(self._bounds[np.searchsorted(self._bounds, offset, "right")]))

    def _scan(self, file: BinaryIO) -> tuple[Integers, Integers]:
        """Return the numbers and offsets of the records from the `.rec` file itself, numbered in their order."""
        offsets, position, inside = [], 0, False
        while position < self._size:
            try:
                flag, length = _read_part_header(file, position, inside)
            except PhotoError as error:
                raise DatasetError(error.reason, where=self.root, remedy=_REMEDY) from None
            if not inside:
                offsets.append(position)
            inside = flag in (1, 2)
            position += 8 + (length + 3 & ~3)
        if not offsets:
            raise DatasetError("is empty", where=self.root, remedy=_REMEDY)
        return np.arange(len(offsets)), np.array(offsets)

    def _check_last_record(self, file: BinaryIO, offset: int) -> None:
        """Read the last record, so that an incomplete download is reported now and not hours later."""
        try:
            self._read_payload(file, offset)
        except PhotoError as error:
            raise DatasetError(error.reason, where=self.root, remedy=_REMEDY) from None

    def _select_images(self, file: BinaryIO, numbers: Integers, offsets: Integers) -> tuple[Integers, Integers]:
        """Return the numbers and offsets of the records that are images, sorted by number."""
        order = np.argsort(numbers)
        numbers, offsets = numbers[order], offsets[order]
        try:
            labels, _ = _split_payload(self._read_payload(file, int(offsets[0])), f"record {numbers[0]}")
        except PhotoError as error:
            raise DatasetError(f"record {numbers[0]} {error.reason}", where=self.root, remedy=_REMEDY) from None
        if numbers[0] != 0 or len(labels) == 1:
            return numbers, offsets
        end = labels[0]
        if not 1 < end <= int(numbers[-1]) + 1:
            reason = f"its first record announces {end - 1:g} images, the index lists {int(numbers[-1]):,}"
            raise DatasetError(reason, where=self.root, remedy=_REMEDY)
        is_image = (numbers > 0) & (numbers < end)
        return numbers[is_image], offsets[is_image]


@contextmanager
def _explain(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatasetError(f"cannot be read ({error.strerror})", where=path, remedy="check the path") from error


def _read_part_header(file: BinaryIO, offset: int, inside: bool) -> tuple[int, int]:
    """Return the flag and the length of a part; the file is then positioned at its bytes.

    Args:
        file: the `.rec` file.
        offset: position of the part, bytes.
        inside: expect a middle or last part of a record instead of a first one.
    """
    file.seek(offset)
    words = file.read(8)
    if len(words) < 8:
        raise PhotoError(f"is cut short at byte {offset:,}")
    magic, word = struct.unpack("<II", words)
    flag, length = word >> 29, word & _LENGTH_MASK
    if magic != _MAGIC or flag > 3 or (flag in (2, 3)) != inside:
        raise PhotoError(f"has no record at byte {offset:,}", remedy=_REMEDY)
    return flag, length


def _read_payload(file: BinaryIO, offset: int, end: int) -> bytes:
    """Return the joined parts of the record from an offset to the beginning of the next record at the latest."""
    parts: list[bytes] = []
    size, start = 0, offset
    while len(parts) < _MAX_PARTS:
        flag, length = _read_part_header(file, offset, bool(parts))
        size += length
        check_limit("encoded_image_bytes", size, f"the record at byte {start:,}", error=PhotoError)
        data = file.read(length)
        if len(data) < length:
            raise PhotoError(f"is cut short: the end of the record at byte {offset:,} is missing")
        parts.append(data)
        offset += 8 + (length + 3 & ~3)
        if offset > end + 3:  # the padding of the last record may be missing
            raise PhotoError(f"has a record at byte {start:,} that runs into the next one", remedy=_REMEDY)
        if flag in (0, 3):
            return _MAGIC_BYTES.join(parts)
    raise PhotoError(f"has a record of more than {_MAX_PARTS} parts near byte {offset:,}")


def _split_payload(payload: bytes, name: str) -> tuple[list[float], bytes]:
    """Return the labels and the encoded image of a record."""
    if len(payload) < _HEADER.size:
        raise PhotoError("is too short to contain a label", where=name, remedy=_REMEDY)
    flag, label, _, _ = _HEADER.unpack_from(payload)
    if flag == 0:
        return [label], payload[_HEADER.size :]
    end = _HEADER.size + 4 * flag
    if flag > _MAX_LABELS or end > len(payload):
        raise PhotoError(f"announces {flag} labels, which it does not contain", where=name, remedy=_REMEDY)
    return list(struct.unpack_from(f"<{flag}f", payload, _HEADER.size)), payload[end:]


FORMAT = RecordIO
