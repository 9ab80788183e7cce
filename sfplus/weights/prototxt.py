"""Reader and writer of `.prototxt`, Caffe's description of networks as protobuf text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from sfplus.errors import WeightsError
from sfplus.io.files import write_atomically
from sfplus.io.limits import check_limit
from sfplus.weights.caffe_schema import NetParameter

_MAX_BYTES = 1 << 20  # ResNet-152 has a tenth of it
_MAX_DEPTH = 32
_MAX_REASON = 200  # characters
_COMMENT_OR_STRING = re.compile(rb"""#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""")
_OPEN, _CLOSE = b"{<[", b"}>]"
_FIELD_SIGNS = (b":", b"{", b"<", b",")  # each field and each number of a list has one


def read_prototxt(path: Path) -> Any:
    """Read a `.prototxt`, with `layer` or the older `layers`, with an Input layer, `input_shape` or `input_dim`.

    Returns:
        A NetParameter message, whose fields have the names of the text: `net.name`,
        `net.layer[0].convolution_param.num_output` etc. Fields that `caffe_schema` does not list are omitted.

    Raises:
        WeightsError: If the file cannot be read, is too large or too deeply nested, or is not a description of a
            network.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise WeightsError("there is no such file", where=path, remedy="check the path")
        size = path.stat().st_size
        if size > _MAX_BYTES:
            reason = f"is {size >> 20} MiB large; descriptions of networks have less than {_MAX_BYTES >> 20} MiB"
            raise WeightsError(reason, where=path, remedy="a .caffemodel has another format")
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror}", where=path, remedy="check the path") from error
    return parse_prototxt(data, path)


def parse_prototxt(data: bytes, where: Path) -> Any:
    """Parse the contents of a `.prototxt`, which `where` names in messages; see `read_prototxt`."""
    try:
        if len(data) > _MAX_BYTES:
            raise ValueError(f"larger than {_MAX_BYTES >> 20} MiB")
        structure, strings = _COMMENT_OR_STRING.subn(b"", data)
        if _nesting_depth(structure) > _MAX_DEPTH:
            raise ValueError(f"nested more than {_MAX_DEPTH} levels deep")
        fields = strings + sum(map(structure.count, _FIELD_SIGNS))
        check_limit("prototxt_fields", fields, where, error=WeightsError)  # the parser needs 25 microseconds for each
        return text_format.Parse(data.decode("utf-8"), NetParameter(), allow_unknown_field=True)
    except (text_format.ParseError, ValueError) as error:
        reason = f"is not a readable description of a network ({_shorten(error)})"
        raise WeightsError(reason, where=where, remedy="get the file again") from None


def write_prototxt(path: Path, net: Any) -> None:
    """Write a NetParameter message as text, atomically."""
    write_atomically(Path(path), encode_prototxt(net))


def encode_prototxt(net: Any) -> bytes:
    """Return a NetParameter message as text; equal messages give equal bytes."""
    text: str = text_format.MessageToString(net, as_utf8=True)
    return text.encode()


def _nesting_depth(structure: bytes) -> int:
    depth = deepest = 0
    for byte in structure:
        depth += (byte in _OPEN) - (byte in _CLOSE)
        deepest = max(deepest, depth)
    return deepest


def _shorten(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < _MAX_REASON else f"{text[: _MAX_REASON - 3]}..."
