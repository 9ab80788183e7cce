"""An interpreter of Caffe networks, described by a NetParameter, which computes in float64 with torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def run(net: Any, blobs: Mapping[str, Sequence[np.ndarray]], data: np.ndarray) -> dict[str, Tensor]:
    """Return all blobs of the network after a forward pass on the input (N, C, H, W), which is called `data`."""
    values = {"data": torch.from_numpy(data).double()}
    for layer in net.layer:
        x = [values[name] for name in layer.bottom]
        y = _layer(layer, x, [torch.from_numpy(np.array(blob)).double() for blob in blobs.get(layer.name, ())])
        values |= dict(zip(layer.top, y if isinstance(y, tuple) else (y,), strict=True))
    return values


def _layer(layer: Any, x: list[Tensor], blobs: list[Tensor]) -> Tensor | tuple[Tensor, ...]:
    if layer.type == "Convolution":
        options = layer.convolution_param
        bias = blobs[1].flatten() if len(blobs) > 1 else None
        return F.conv2d(x[0], blobs[0], bias, stride=(*options.stride, 1)[0], padding=(*options.pad, 0)[0])
    if layer.type == "InnerProduct":
        return F.linear(x[0].flatten(1), blobs[0].reshape(blobs[0].shape[-2:]), blobs[1].flatten())
    if layer.type == "PReLU":
        return F.prelu(x[0], blobs[0].flatten())
    if layer.type == "Pooling":
        options = layer.pooling_param
        assert options.pool == 0
        return F.max_pool2d(x[0], options.kernel_size, options.stride, ceil_mode=True)
    if layer.type == "Softmax":
        return x[0].softmax(1)
    if layer.type == "Slice":
        points = list(layer.slice_param.slice_point)
        return tuple(x[0].tensor_split(points, 1))
    if layer.type == "Concat":
        return torch.cat(x, 1)
    if layer.type == "Dropout":
        return x[0]
    if layer.type == "Eltwise":
        return x[0] + x[1]
    raise AssertionError(f"no rule for {layer.type}")
