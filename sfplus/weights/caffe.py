"""Reader and writer of `.caffemodel`, Caffe's binary weights, without Caffe.

The arrays, called blobs, bypass protobuf: `protobuf_reader.Reader` finds each one and returns an array that is a view
of the file. Everything else, a few hundred bytes per layer, is parsed by protobuf's runtime with the schema of
`caffe_schema`.
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
from sfplus.io.limits import limit
from sfplus.weights.caffe_schema import NetParameter
from sfplus.weights.protobuf_reader import BYTES, MalformedError, Reader, encode_tag, encode_varint

Blob = NDArray[np.float32] | NDArray[np.float64]

_MAX_BYTES = (1 << 31) - 1  # of any protobuf message
_MAX_DESCRIPTION = 4 << 20  # bytes outside of blobs; large networks have a tenth of it
_MAX_DIMENSIONS = 32  # kMaxBlobAxes of Caffe
_LAYERS = {2: ("layers", 6), 100: ("layer", 7)}  # field of NetParameter: its name, field of the blobs in a layer


@dataclass(frozen=True)
class CaffeModel:
    """A Caffe network and its weights.

    Attributes:
        net: a NetParameter message without blobs, as `read_prototxt` returns it: `net.layer`, in old files
            `net.layers`.
        blobs: the arrays of each layer by its name, float32 (in old files possibly float64); read-only views of the
            file's bytes if they were read from a file.
    """

    net: Any
    blobs: Mapping[str, Sequence[Blob]] = field(default_factory=dict)


def read_caffemodel(path: Path) -> CaffeModel:
    """Read a binary `.caffemodel` of the current format (`layer`) or the one before it (V1, `layers`).

    Needs about as much memory as the file is large. As in Caffe, `double_data` takes precedence over `data`, and legacy
    dimensions (num, channels, height, width) over `shape`.

    Raises:
        WeightsError: If the file cannot be read, is malformed or truncated, or the size of a blob differs from its
            shape.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise WeightsError("there is no such file", where=path, remedy="check the path")
        if path.stat().st_size > _MAX_BYTES:
            raise MalformedError("larger than the 2 GiB that the format allows")
        return _read_net(Reader(path.read_bytes(), limit("caffe_fields")))
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror}", where=path, remedy="check the path") from error
    except (MalformedError, DecodeError, UnicodeError) as error:
        reason = f"is not a readable Caffe model ({error})"
        raise WeightsError(reason, where=path, remedy="get the file again; a .prototxt has another format") from None


def _read_net(reader: Reader) -> CaffeModel:
    description, blobs = bytearray(), dict[str, Sequence[Blob]]()
    for number, kind, tag, first, last in reader.fields(0, len(reader.data)):
        if number in _LAYERS and kind == BYTES:
            key, blob_number = _LAYERS[number]
            layer_bytes, layer_blobs = _read_layer(reader, first, last, blob_number)
            message = encode_tag(number, BYTES, len(layer_bytes)) + layer_bytes
            _append(description, message)
            if layer_blobs:
                name = getattr(NetParameter.FromString(message), key)[0].name
                if name in blobs:
                    raise MalformedError(f"two layers named '{name}'")
                blobs[name] = layer_blobs
        else:
            _append(description, reader.data[tag:last])
    net = NetParameter.FromString(bytes(description))
    if not net.layer and not net.layers:
        raise MalformedError("it has no layer")
    for layer in (*net.layers, *net.layer):  # protobuf returns text that is not UTF-8 as bytes, or raises
        if not all(isinstance(text, str) for text in (layer.name, *layer.bottom, *layer.top)):
            raise MalformedError("a name that is not text")
    return CaffeModel(net, blobs)


def _append(description: bytearray, data: bytes | memoryview) -> None:
    if len(description) + len(data) > _MAX_DESCRIPTION:
        raise MalformedError(f"more than {_MAX_DESCRIPTION >> 20} MiB that are not weights")
    description += data


def _read_layer(reader: Reader, start: int, end: int, blob_number: int) -> tuple[bytes, list[Blob]]:
    """Return the message of a layer without its blobs, and the blobs."""
    description, blobs = bytearray(), list[Blob]()
    for number, kind, tag, first, last in reader.fields(start, end):
        if number == blob_number:
            if kind != BYTES:
                raise MalformedError(f"wire type {kind} instead of a blob at byte {tag}")
            blobs.append(_read_blob(reader, first, last))
        elif number == 1 and blob_number == 6:
            raise MalformedError("it has Caffe's first format, V0; upgrade it with Caffe's upgrade_net_proto_binary")
        else:
            _append(description, reader.data[tag:last])
    return bytes(description), blobs


def _read_blob(reader: Reader, start: int, end: int) -> Blob:
    arrays: dict[int, list[NDArray[Any]]] = {5: [], 8: []}
    legacy: dict[int, int] = {}
    shape: list[int] = []
    for number, kind, tag, first, last in reader.fields(start, end):
        if number in arrays:
            arrays[number].append(reader.array(kind, tag, first, last, "<f4" if number == 5 else "<f8"))
        elif number in (1, 2, 3, 4):
            legacy[number] = reader.integer(kind, first, last)
        elif number == 7 and kind == BYTES:
            for dim_number, dim_kind, _, dim_first, dim_last in reader.fields(first, last):
                if dim_number == 1:
                    shape += reader.integers(dim_kind, dim_first, dim_last, _MAX_DIMENSIONS)
    singles, doubles = ([array for array in arrays[number] if len(array)] for number in (5, 8))
    data = _join(doubles or singles)
    if legacy:
        shape = [legacy.get(number, 0) for number in (1, 2, 3, 4)]
    bounded = math.prod(max(size, 1) for size in shape[:_MAX_DIMENSIONS]) <= _MAX_BYTES  # numpy limits empty ones too
    if len(shape) > _MAX_DIMENSIONS or any(size < 0 for size in shape) or not bounded:
        raise MalformedError(f"a blob of shape {shape[: _MAX_DIMENSIONS + 1]} at byte {start}")
    if math.prod(shape) != len(data):
        raise MalformedError(f"a blob of shape {tuple(shape)} with {len(data):,} numbers at byte {start}")
    data.flags.writeable = False
    return data.reshape(shape)


def _join(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate([np.empty(0, np.float32), *arrays])


def write_caffemodel(path: Path, model: CaffeModel) -> None:
    """Write a `.caffemodel` atomically; reading it returns the same bits.

    Args:
        path: the file; its folder must exist.
        model: the network and its weights. Blobs of type float64 are written as `double_data`; each name of `blobs`
            must be that of a layer.

    Raises:
        WeightsError: If blobs do not belong to a layer, or the file would be larger than the format allows.
        SfplusError: If the file cannot be written.
    """
    header, remaining_blobs = type(model.net)(), dict(model.blobs)
    header.CopyFrom(model.net)
    parts: list[bytes | memoryview] = []
    for number, (key, blob_number) in _LAYERS.items():
        for layer in getattr(model.net, key):
            content: list[bytes | memoryview] = [layer.SerializeToString()]
            for blob in remaining_blobs.pop(layer.name, ()):
                content += _encode_field(blob_number, _encode_blob(blob))
            parts += _encode_field(number, content)
        header.ClearField(key)
    parts.insert(0, header.SerializeToString())
    if remaining_blobs:
        raise WeightsError(f"there is no layer for the blobs of {next(iter(remaining_blobs))}", where=path)
    if _total_length(parts) > _MAX_BYTES:
        raise WeightsError("would be larger than the 2 GiB that the format allows", where=path)
    write_atomically(Path(path), b"".join(parts))


def _encode_blob(blob: Blob) -> list[bytes | memoryview]:
    double = blob.dtype == np.float64
    data = np.ascontiguousarray(blob, "<f8" if double else "<f4")
    shape = _encode_field(1, [b"".join(map(encode_varint, blob.shape))])
    return [*_encode_field(7, shape), *_encode_field(8 if double else 5, [data.reshape(-1).view(np.uint8).data])]


def _encode_field(number: int, content: list[bytes | memoryview]) -> list[bytes | memoryview]:
    return [encode_tag(number, BYTES, _total_length(content)), *content]


def _total_length(parts: Sequence[bytes | memoryview]) -> int:
    return sum(map(len, parts))
