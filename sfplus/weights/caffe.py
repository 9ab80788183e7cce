"""Caffe's binary files of weights, `.caffemodel`: read without Caffe, written for it.

The bulk, the blobs, is never handed to protobuf: `wire.Reader` finds each and makes it an array that is a view of the
file. The rest, a few hundred bytes per layer, goes through protobuf's runtime with the schema of `caffe_schema`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from sfplus.errors import WeightsError
from sfplus.io.files import write_atomically
from sfplus.weights.caffe_schema import NetParameter
from sfplus.weights.protobuf_reader import BYTES, Malformed, Reader, tagged, varint

Blob = NDArray[np.float32] | NDArray[np.float64]

_MAX_BYTES = (1 << 31) - 1  # of any protobuf message
_MAX_REST = 4 << 20  # bytes that are no blobs; large networks have a tenth of it
_MAX_DIMENSIONS = 32  # kMaxBlobAxes of Caffe
_LAYERS = {2: ("layers", 6), 100: ("layer", 7)}  # field of NetParameter: its name, field of the blobs in a layer


@dataclass(frozen=True)
class CaffeModel:
    """A network and its weights.

    Attributes:
        net: a NetParameter message, as `read_prototxt` gives it, without blobs: `net.layer`, in old files `net.layers`.
        blobs: by name of the layer its arrays, float32 (old files: perhaps float64); read-only views of the file's
            bytes where they were read.
    """

    net: Any
    blobs: Mapping[str, Sequence[Blob]] = field(default_factory=dict)


def read_caffemodel(path: Path) -> CaffeModel:
    """Read a binary `.caffemodel` of the current format (`layer`) or the one before it (V1, `layers`).

    Takes the memory of the file once. As in Caffe, `double_data` comes before `data` and legacy dimensions (num,
    channels, height, width) before `shape`.

    Raises:
        WeightsError: the file cannot be read, is malformed or cut short, or a blob does not fill its shape.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise WeightsError("there is no such file", where=path, remedy="check the path")
        if path.stat().st_size > _MAX_BYTES:
            raise Malformed("larger than the 2 GiB that the format allows")
        return _read_net(Reader(path.read_bytes()))
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror}", where=path, remedy="check the path") from error
    except (Malformed, DecodeError, UnicodeError) as error:
        reason = f"is not a readable Caffe model ({error})"
        raise WeightsError(reason, where=path, remedy="get the file again; .prototxt is another kind of file") from None


def _read_net(reader: Reader) -> CaffeModel:
    rest, blobs = bytearray(), dict[str, Sequence[Blob]]()
    for number, kind, tag, first, last in reader.fields(0, len(reader.data)):
        if number in _LAYERS and kind == BYTES:
            key, blob_number = _LAYERS[number]
            raw, found = _read_layer(reader, first, last, blob_number)
            message = tagged(number, BYTES, len(raw)) + raw
            _keep(rest, message)
            if found:
                name = getattr(NetParameter.FromString(message), key)[0].name
                if name in blobs:
                    raise Malformed(f"two layers named '{name}'")
                blobs[name] = found
        else:
            _keep(rest, reader.data[tag:last])
    net = NetParameter.FromString(bytes(rest))
    if not net.layer and not net.layers:
        raise Malformed("no layer in it")
    for layer in (*net.layers, *net.layer):  # protobuf gives text that is not UTF-8 as bytes, or raises
        if not all(isinstance(text, str) for text in (layer.name, *layer.bottom, *layer.top)):
            raise Malformed("a name that is no text")
    return CaffeModel(net, blobs)


def _keep(rest: bytearray, more: bytes | memoryview) -> None:
    if len(rest) + len(more) > _MAX_REST:
        raise Malformed(f"more than {_MAX_REST >> 20} MiB that are no weights")
    rest += more


def _read_layer(reader: Reader, start: int, end: int, blob_number: int) -> tuple[bytes, list[Blob]]:
    """The layer without its blobs, and the blobs."""
    rest, blobs = bytearray(), list[Blob]()
    for number, kind, tag, first, last in reader.fields(start, end):
        if number == blob_number:
            if kind != BYTES:
                raise Malformed(f"wire type {kind} where a blob belongs, at byte {tag}")
            blobs.append(_read_blob(reader, first, last))
        elif number == 1 and blob_number == 6:
            raise Malformed("it is of Caffe's first format, V0; Caffe's upgrade_net_proto_binary makes it newer")
        else:
            _keep(rest, reader.data[tag:last])
    return bytes(rest), blobs


def _read_blob(reader: Reader, start: int, end: int) -> Blob:
    parts: dict[int, list[NDArray[Any]]] = {5: [], 8: []}
    legacy: dict[int, int] = {}
    shape: list[int] = []
    for number, kind, tag, first, last in reader.fields(start, end):
        if number in parts:
            parts[number].append(reader.array(kind, tag, first, last, "<f4" if number == 5 else "<f8"))
        elif number in (1, 2, 3, 4):
            legacy[number] = reader.integer(kind, first, last)
        elif number == 7 and kind == BYTES:
            for inner, inner_kind, _, a, b in reader.fields(first, last):
                if inner == 1:
                    shape += reader.integers(inner_kind, a, b, _MAX_DIMENSIONS)
    singles, doubles = ([part for part in parts[number] if len(part)] for number in (5, 8))
    data = _join(doubles or singles)
    if legacy:
        shape = [legacy.get(number, 0) for number in (1, 2, 3, 4)]
    bounded = math.prod(max(size, 1) for size in shape[:_MAX_DIMENSIONS]) <= _MAX_BYTES  # numpy needs it of empty ones
    if len(shape) > _MAX_DIMENSIONS or any(size < 0 for size in shape) or not bounded:
        raise Malformed(f"a blob of shape {shape[: _MAX_DIMENSIONS + 1]} at byte {start}")
    if math.prod(shape) != len(data):
        raise Malformed(f"a blob of shape {tuple(shape)} with {len(data):,} numbers at byte {start}")
    data.flags.writeable = False
    return data.reshape(shape)


def _join(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.float32), *parts])


def write_caffemodel(path: Path, model: CaffeModel) -> None:
    """Write a `.caffemodel`, completely or not at all; what is read from it again is the same in every bit.

    Args:
        path: its folder must exist.
        model: float64 blobs are written as `double_data`; every name of `blobs` must be that of a layer.

    Raises:
        WeightsError: a blob belongs to no layer, or the file would be larger than the format allows.
        SfplusError: the file cannot be written.
    """
    head, left = type(model.net)(), dict(model.blobs)
    head.CopyFrom(model.net)
    parts: list[bytes | memoryview] = []
    for number, (key, blob_number) in _LAYERS.items():
        for layer in getattr(model.net, key):
            inner: list[bytes | memoryview] = [layer.SerializeToString()]
            for blob in left.pop(layer.name, ()):
                inner += _field(blob_number, _write_blob(blob))
            parts += _field(number, inner)
        head.ClearField(key)
    parts.insert(0, head.SerializeToString())
    if left:
        raise WeightsError(f"there is no layer for the blobs of {next(iter(left))}", where=path)
    if _length(parts) > _MAX_BYTES:
        raise WeightsError("would be larger than the 2 GiB that the format allows", where=path)
    write_atomically(Path(path), b"".join(parts))


def _write_blob(blob: Blob) -> list[bytes | memoryview]:
    double = blob.dtype == np.float64
    data = np.ascontiguousarray(blob, "<f8" if double else "<f4")
    shape = _field(1, [b"".join(map(varint, blob.shape))])
    return [*_field(7, shape), *_field(8 if double else 5, [data.reshape(-1).view(np.uint8).data])]


def _field(number: int, content: list[bytes | memoryview]) -> list[bytes | memoryview]:
    return [tagged(number, BYTES, _length(content)), *content]


def _length(parts: Sequence[bytes | memoryview]) -> int:
    return sum(map(len, parts))
