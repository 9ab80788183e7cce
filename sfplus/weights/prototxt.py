"""Caffe's descriptions of networks, `.prototxt`: read and written as protobuf text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from sfplus.errors import WeightsError
from sfplus.io.files import write_atomically
from sfplus.weights.caffe_schema import NetParameter

_MAX_BYTES = 1 << 20  # ResNet-152 takes a tenth
_MAX_DEPTH = 32
_QUOTED = re.compile(rb"""#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""")
_OPEN, _CLOSE = b"{<[", b"}>]"


def read_prototxt(path: Path) -> Any:
    """Read a `.prototxt`, with `layer` or the older `layers`, with an Input layer, `input_shape` or `input_dim`.

    Returns:
        A NetParameter message: `net.name`, `net.layer[0].convolution_param.num_output` and so on, under the names of
        the text. Fields that `caffe_schema` does not list are left out.

    Raises:
        WeightsError: the file cannot be read, is too large or nested too deeply, or is not such text.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise WeightsError("there is no such file", where=path, remedy="check the path")
        size = path.stat().st_size
        if size > _MAX_BYTES:
            reason = f"is {size >> 20} MiB large; descriptions of networks stay below {_MAX_BYTES >> 20}"
            raise WeightsError(reason, where=path, remedy="a .caffemodel is another kind of file")
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror}", where=path, remedy="check the path") from error
    try:
        if _depth(data) > _MAX_DEPTH:
            raise ValueError(f"nested more than {_MAX_DEPTH} deep")
        return text_format.Parse(data.decode("utf-8"), NetParameter(), allow_unknown_field=True)
    except (text_format.ParseError, ValueError) as error:
        reason = f"is not a readable description of a network ({_short(error)})"
        raise WeightsError(reason, where=path, remedy="get the file again") from None


def write_prototxt(path: Path, net: Any) -> None:
    """Write a NetParameter message as text, completely or not at all."""
    write_atomically(Path(path), text_format.MessageToString(net, as_utf8=True).encode())


def _depth(data: bytes) -> int:
    depth = deepest = 0
    for byte in _QUOTED.sub(b"", data):
        depth += (byte in _OPEN) - (byte in _CLOSE)
        deepest = max(deepest, depth)
    return deepest


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 200 else f"{text[:197]}..."
