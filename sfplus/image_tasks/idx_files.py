"""The idx files of MNIST, plain or compressed by gzip."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np

from sfplus.errors import DatasetError, explain_damage
from sfplus.io.files import file_size
from sfplus.io.limits import check_expansion, check_limit


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an idx file: two zero bytes, the type (8 is uint8), the number of dimensions, their sizes, the values.

    No more is decompressed than the sizes announce.

    Args:
        path: the file; it is compressed if its name ends in `.gz`.
        dimensions: the number of dimensions that it must have.

    Returns:
        The values, uint8.

    Raises:
        DatasetError: If it cannot be read, is damaged or empty, or is above the limits `idx_bytes` and `expansion`.
    """
    start, remedy = 4 + 4 * dimensions, "download the file again"
    invalid = DatasetError("is not an idx file of bytes, or is cut short", where=path, remedy=remedy)
    with explain_damage(path, remedy=remedy, error=DatasetError):
        stored = file_size(path)
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(start)
            if len(header) < start or header[:4] != bytes((0, 0, 8, dimensions)):
                raise invalid
            shape = tuple(int.from_bytes(header[at : at + 4], "big") for at in range(4, start, 4))
            size = math.prod(shape)
            check_limit("idx_bytes", size, path, error=DatasetError)
            check_expansion(size, stored, path, error=DatasetError)
            data = file.read(size + 1)
    if len(data) != size:
        raise invalid
    if not size:
        raise DatasetError("is empty", where=path, remedy=remedy)
    return np.frombuffer(data, np.uint8).reshape(shape).copy()
