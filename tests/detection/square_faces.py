"""A network with the inputs and outputs of YuNet that detects squares: white above, black below, on a grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np

LANDMARKS = np.array([[0.25, 0.25], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0.75, 0.75]])  # parts of the square


def square_network() -> bytes:
    """Return the ONNX graph; the score of a square of 8, 16 or 32 pixels is the difference of its halves."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, outputs = [], [], []

    def constant(name: str, values: object, kind: type = np.float32) -> str:
        weights.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    for side in (8, 16, 32):
        halves = np.ones((1, 3, side, side)) / (3 * 255 * side * side / 2)
        halves[:, :, side // 2 :] *= -1
        score = constant(f"halves{side}", halves)
        nodes.append(
            helper.make_node("Conv", ["input", score], [f"d{side}"], kernel_shape=[side] * 2, strides=[side] * 2)
        )
        nodes.append(helper.make_node("Relu", [f"d{side}"], [f"score{side}"]))
        biases = {"bbox": [0.5, 0.5, 0, 0], "kps": LANDMARKS.ravel()}
        for name, bias in biases.items():
            zero, value = constant(f"z{name}{side}", np.zeros((len(bias), 1, 1, 1))), constant(f"b{name}{side}", bias)
            nodes.append(
                helper.make_node("Conv", [f"score{side}", zero, value], [f"{name}{side}"], kernel_shape=[1, 1])
            )
        for name, source, width in (("cls", "score", 1), ("obj", "score", 1), ("bbox", "bbox", 4), ("kps", "kps", 10)):
            shape = constant(f"s{name}{side}", [1, -1, width], np.int64)
            nodes.append(helper.make_node("Transpose", [f"{source}{side}"], [f"t{name}{side}"], perm=[0, 2, 3, 1]))
            nodes.append(helper.make_node("Reshape", [f"t{name}{side}", shape], [f"{name}_{side}"]))
    for name, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        for side in (8, 16, 32):
            shape = [1, (640 // side) ** 2, width]
            outputs.append(helper.make_tensor_value_info(f"{name}_{side}", TensorProto.FLOAT, shape))
    data = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 640, 640])
    graph = helper.make_graph(nodes, "squares", [data], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    return bytes(model.SerializeToString())


def draw_squares(height: int, width: int, squares: list[tuple[int, int, int]]) -> np.ndarray:
    """Draw squares, each the left, the top and the side, on black: uint8 (height, width, 3)."""
    photo = np.zeros((height, width, 3), np.uint8)
    for left, top, side in squares:
        photo[top : top + side // 2, left : left + side] = 255
    return photo


def real_yunet() -> Path | None:
    """Return the real model, from SFPLUS_YUNET or the shared data, or None."""
    import os

    default = Path(__file__).resolve().parents[3] / "shared" / "data" / "yunet"
    shared = Path(os.environ.get("SFPLUS_SHARED_DATA", default.parent)) / "yunet"
    path = Path(os.environ.get("SFPLUS_YUNET", shared / "face_detection_yunet_2023mar.onnx"))
    return path if path.is_file() else None
