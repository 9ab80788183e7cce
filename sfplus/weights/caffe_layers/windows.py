"""Caffe layers that move a window over images: convolution, pooling and local response normalisation."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sfplus.weights.caffe_layers.registry import (
    Layer,
    LayerError,
    Shape,
    check_size,
    get_option,
    get_pair,
    image_size,
    register,
)


@register("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise", "DepthWiseConvolution", "Deconvolution")
def _convolution(layer: Any, shapes: list[Shape]) -> Layer:
    options, (channels, *sizes) = layer.convolution_param, image_size(shapes[0])
    outputs, groups = options.num_output, get_option(options, "group", 1)
    if "epth" in layer.type:  # forks: a group for each channel, stated or not
        groups = channels
    kernel, stride = get_pair(options, "kernel_size", None), get_pair(options, "stride", 1)
    pad, dilation = get_pair(options, "pad", 0), get_pair(options, "dilation", 1)
    if groups < 1 or outputs < 1 or channels % groups or outputs % groups:
        raise LayerError(f"has {channels} inputs, {outputs} outputs and {groups} groups, which do not divide")
    check_size(channels, outputs // groups, *kernel)
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    spatial = list(zip(sizes, extents, stride, pad, strict=True))
    bias = get_option(options, "bias_term", True)
    if layer.type == "Deconvolution":
        module: nn.Module = nn.ConvTranspose2d(
            channels, outputs, kernel, stride, pad, groups=groups, bias=bias, dilation=dilation
        )
        after = [(size - 1) * s + extent - 2 * p for size, extent, s, p in spatial]
    else:
        module = nn.Conv2d(channels, outputs, kernel, stride, pad, dilation, groups, bias)
        after = [(size + 2 * p - extent) // s + 1 for size, extent, s, p in spatial]
    if min(after) < 1:
        raise LayerError(f"has windows of {extents[0]} x {extents[1]} on an input of {sizes[0]} x {sizes[1]}")
    return module, [(shapes[0][0], outputs, *after)]


class Pool(nn.Module):
    """Pooling with Caffe's rounding: upwards, but no window starts beyond the image and its padding.

    An average is divided by the size of the window with its padding, but without what extends beyond the padding.
    """

    def __init__(
        self, average: bool, kernel: tuple[int, int], stride: tuple[int, int], pad: tuple[int, int], ceil: bool
    ) -> None:
        super().__init__()
        self.average, self.kernel, self.stride, self.pad, self.ceil = average, kernel, stride, pad, ceil

    def forward(self, x: Tensor) -> Tensor:
        """Return the maxima or averages: (N, C, H, W) -> (N, C, H', W')."""
        pool = F.avg_pool2d if self.average else F.max_pool2d
        return pool(x, self.kernel, self.stride, self.pad, ceil_mode=self.ceil)


class GlobalPool(nn.Module):
    """The maximum or the average of each channel: (N, C, H, W) -> (N, C, 1, 1)."""

    def __init__(self, average: bool) -> None:
        super().__init__()
        self.average = average

    def forward(self, x: Tensor) -> Tensor:
        """Return the maxima or averages."""
        return x.mean((2, 3), keepdim=True) if self.average else x.amax((2, 3), keepdim=True)


@register("Pooling")
def _pooling(layer: Any, shapes: list[Shape]) -> Layer:
    options, (channels, *sizes) = layer.pooling_param, image_size(shapes[0])
    if options.pool not in (0, 1):
        raise LayerError("pools at random, which is not supported")
    if len(layer.top) > 1:
        raise LayerError("has a second output, the mask, which is not supported")
    average = options.pool == 1
    if options.global_pooling:
        return GlobalPool(average), [(shapes[0][0], channels, 1, 1)]
    kernel, stride = get_pair(options, "kernel_size", None), get_pair(options, "stride", 1)
    pad, ceil = get_pair(options, "pad", 0), options.round_mode == 0 and get_option(options, "ceil_mode", True)
    if any(2 * p > k for p, k in zip(pad, kernel, strict=True)):
        raise LayerError("pads by more than half of its window, which is not supported")
    after = []
    for size, k, s, p in zip(sizes, kernel, stride, pad, strict=True):
        span = size + 2 * p - k
        if span < 0:
            raise LayerError(f"has windows of {kernel[0]} x {kernel[1]} on an input of {sizes[0]} x {sizes[1]}")
        count = (-(-span // s) if ceil else span // s) + 1
        after.append(count - (ceil and (count - 1) * s >= size + p))
    return Pool(average, kernel, stride, pad, ceil), [(shapes[0][0], channels, *after)]


class LocalResponseNorm(nn.Module):
    """Division by a power of the mean square around each number, in its channel: `WITHIN_CHANNEL`."""

    def __init__(self, size: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        """Return x / (1 + alpha * mean square) ** beta."""
        squares = F.avg_pool2d(x * x, self.size, 1, self.size // 2)
        return x * (1 + self.alpha * squares) ** -self.beta


@register("LRN")
def _lrn(layer: Any, shapes: list[Shape]) -> Layer:
    options = layer.lrn_param
    size, alpha, beta = (
        get_option(options, "local_size", 5),
        get_option(options, "alpha", 1.0),
        get_option(options, "beta", 0.75),
    )
    image_size(shapes[0])
    if not size % 2 or size > 1 << 15:
        raise LayerError(f"has a local_size of {size}, which is not odd")
    if options.norm_region == 1:
        return LocalResponseNorm(size, alpha, beta), shapes
    return nn.LocalResponseNorm(size, alpha, beta, get_option(options, "k", 1.0)), shapes
