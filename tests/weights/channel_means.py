"""Networks whose features have a closed form: the mean of each channel of the normalised input."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor, nn


class ChannelMeans(nn.Module):
    """(N, 3, H, W) -> (N, 3), scaled by a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) * self.weight


class SeveralOutputs(ChannelMeans):
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"score": x.mean((1, 2, 3)), "feature": super().forward(x)[:, :, None, None]}


def make() -> ChannelMeans:
    return ChannelMeans()


def make_several() -> SeveralOutputs:
    return SeveralOutputs()


def make_double() -> nn.Module:
    return ChannelMeans().double()


def make_callable() -> Any:
    return lambda x: x.numpy().mean((1, 2))  # of a layout (N, H, W, 3), returns an array


def make_tuple() -> Any:
    return lambda x: (x.mean((2, 3)), x.amax((1, 2, 3)))


def fail() -> None:
    raise RuntimeError("no weights on this machine\nsecond line")


def make_nothing() -> int:
    return 3


def make_nan() -> Any:
    return lambda x: x.mean((2, 3)) * float("nan")


def make_picky() -> nn.Module:
    return nn.Linear(7, 2)


def make_scalar() -> Any:
    return lambda x: x.mean()


not_callable = 7


def means_of(crops: NDArray[np.uint8], mean: float, scale: float, bgr: bool = False) -> NDArray[np.float64]:
    """Return the features of uint8 RGB crops (N, H, W, 3)."""
    values = ((crops.astype(np.float64) - mean) / scale).mean((1, 2))
    return values[:, ::-1] if bgr else values


def onnx_bytes(
    shape: list[Any], dtype: int = TensorProto.FLOAT, outputs: int = 1, normalise: tuple[float, float] | None = None
) -> bytes:
    """Return an ONNX graph that computes the means of the channels, with the names `in` and `out0`, `out1`, ..."""
    axes = [1, 2] if shape[3] == 3 else [2, 3]
    nodes = [helper.make_node("Cast", ["in"], ["x"], to=TensorProto.FLOAT)]
    constants = [helper.make_tensor("axes", TensorProto.INT64, [2], axes)]
    if normalise:
        constants += [helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in zip("ms", normalise, strict=True)]
        nodes += [helper.make_node("Sub", ["x", "m"], ["y"]), helper.make_node("Div", ["y", "s"], ["z"])]
    source = "z" if normalise else "x"
    nodes += [helper.make_node("ReduceMean", [source, "axes"], ["means"], keepdims=0)]
    nodes += [helper.make_node("Cast", ["means"], [f"out{i}"], to=dtype if dtype != TensorProto.UINT8 else 1)
              for i in range(outputs)]  # fmt: skip
    kind = dtype if dtype != TensorProto.UINT8 else TensorProto.FLOAT
    results = [helper.make_tensor_value_info(f"out{i}", kind, [shape[0], 3]) for i in range(outputs)]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("in", dtype, shape)], results, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())
