"""Descriptions of the tensors in a file of `torch.save`, for which no memory is used yet."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

_DTYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
    "QInt8Storage": torch.int8, "QUInt8Storage": torch.uint8, "QInt32Storage": torch.int32,
}  # fmt: skip


@dataclass(frozen=True)
class Storage:
    """A part of the file with numbers.

    Attributes:
        key: its name in the file.
        dtype: the type of the numbers.
        count: how many there are.
        start: the first one, where it is a view of the storage with this key.
    """

    key: str
    dtype: torch.dtype
    count: int
    start: int = 0


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is not loaded yet.

    Attributes:
        storage: its numbers; None for a sparse, quantised or meta tensor.
        dtype: the type of the numbers.
        offset: the first number.
        shape: its shape.
        strides: the distance of neighbours in each dimension, in numbers.
    """

    storage: Storage | None
    dtype: torch.dtype = torch.float32
    offset: int = 0
    shape: tuple[int, ...] = (1,)
    strides: tuple[int, ...] = (1,)

    def dim(self) -> int:
        """Return the number of dimensions."""
        return len(self.shape)

    @property
    def is_complete(self) -> bool:
        """Return whether the file has all numbers of the tensor."""
        return self.storage is not None and math.prod(self.shape) * self.dtype.itemsize <= _nbytes(self.storage)


def describe_storage(key: str, kind: str, count: object, start: object = 0) -> Storage | None:
    """Return the storage of a class such as `FloatStorage`; None for a class that is not known.

    Raises:
        ValueError: If the sizes are no sizes.
    """
    if not _are_sizes([count, start]):
        raise ValueError("a storage has no size")
    return Storage(key, _DTYPES[kind], count, start) if kind in _DTYPES else None  # type: ignore[arg-type]


def describe_tensor(storage: object, offset: object, shape: object, strides: object, dtype: object) -> StoredTensor:
    """Return a tensor that consists of numbers of a storage.

    Args:
        storage: the storage; of anything else, the tensor is incomplete.
        offset: the first number.
        shape: the shape.
        strides: the distances of neighbours.
        dtype: the type of the numbers; None for that of the storage.

    Raises:
        ValueError: If the sizes are no sizes, or the tensor has numbers outside of the storage.
    """
    if not isinstance(storage, Storage) or not isinstance(kind := dtype or storage.dtype, torch.dtype):
        return StoredTensor(None)
    if not (_are_sizes([offset]) and _are_sizes(shape) and _are_sizes(strides)):
        raise ValueError("a tensor has no shape")
    tensor = StoredTensor(storage, kind, offset, tuple(shape), tuple(strides))  # type: ignore[arg-type]
    last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.strides, strict=True))
    if math.prod(tensor.shape) and (last + 1) * kind.itemsize > _nbytes(storage):
        raise ValueError("a tensor is larger than its storage")
    return tensor


def _are_sizes(values: object) -> bool:
    return isinstance(values, list | tuple) and all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def _nbytes(storage: Storage) -> int:
    return storage.count * storage.dtype.itemsize
