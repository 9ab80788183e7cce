"""The number of fields in an ONNX file, counted before it is parsed: empty ones take two bytes there, 400 in memory."""

from __future__ import annotations

from sfplus.io.limits import limit
from sfplus.weights.protobuf_reader import BYTES, Reader

# Fields of each message that are messages themselves (onnx.proto).
_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "opset", 14: "entry", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value", 14: "annotation", 15: "sparse"},
    "node": {5: "attribute", 9: "entry"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 14: "type", 15: "type", 22: "sparse",
                  23: "sparse"},
    "tensor": {13: "entry", 16: "entry"},
    "sparse": {1: "tensor", 2: "tensor"},
    "value": {2: "type", 4: "entry"},
    "type": {1: "element", 4: "type", 5: "map", 8: "element", 9: "type"},
    "element": {1: "type", 2: "shape"},
    "map": {2: "type"},
    "shape": {1: "dimension"},
    "training": {1: "graph", 2: "graph", 3: "entry", 4: "entry"},
    "function": {7: "node", 9: "opset", 11: "attribute", 12: "value", 14: "entry"},
    "annotation": {2: "entry"},
}  # fmt: skip


def check_onnx_fields(data: bytes) -> None:
    """Refuse an ONNX file with more fields than the limit `onnx_fields`.

    Raises:
        MalformedError: If there are more, or the bytes are not a message.
    """
    reader = Reader(data, limit("onnx_fields"))
    pending = [("model", 0, len(data))]
    while pending:
        message, start, end = pending.pop()
        for number, kind, _, first, last in reader.fields(start, end):
            if kind == BYTES and (child := _MESSAGES.get(message, {}).get(number)):
                pending.append((child, first, last))
