"""The image classifiers of the MHE, CoMHE and SphereNet papers, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfplus.errors import UsageError, suggest
from sfplus.hypersphere import WeightNormLinear, to_sphere
from sfplus.networks import backbones, is_function, is_library_network
from sfplus.networks.own_networks import NO_OPTIONS, bind_own, call_own, check_features

BN_EPSILON = 1e-3
"""Added to the variance (`architecture.py` of MHE and CoMHE, `spherenet.py`)."""

BN_MOMENTUM = 0.001
"""1 - 0.999, the decay of the moving averages there. The initial variance is 1 here and 0 there."""


@dataclass(frozen=True)
class _Plain:
    convolutions: int  # of each stage
    width: int
    factors: tuple[float, ...] = (1, 2, 4)
    features: int = 256


_MakeNorm = Callable[[int], nn.Module]
_MakeLast = Callable[[int, int], nn.Module]
_PLAIN = {
    "cnn6": _Plain(2, 64),
    "cnn9": _Plain(3, 64),
    "cnn15": _Plain(5, 64),
    "spherenet9": _Plain(3, 128, (1, 1.5, 2)),
    "mnist6": _Plain(2, 16, features=2),
}
CLASSIFIERS = (*_PLAIN, "sphere-resnet32")


def create_classifier(
    name: str,
    classes: int,
    network_options: Mapping[str, Any] = NO_OPTIONS,
    *,
    width: int = 0,
    operator: str = "none",
    rescale: bool = False,
    weight_norm: bool = False,
    bn_momentum: float = BN_MOMENTUM,
    channels: int = 3,
    size: int = 32,
) -> nn.Module:
    """Create a classifier (N, channels, size, size) -> logits (N, classes), initialised from torch's generator.

    - cnn6, cnn9, cnn15 (MHE paper, table of architectures; cnn9: MHE, architecture.py): three stages of 2, 3 or 5
      convolutions of `width`, 2 `width` and 4 `width` filters.
    - spherenet9: 128, 192 and 256 filters (spherenet.py).
    - mnist6: cnn6 with features in the plane. The paper describes the network of its experiment on imbalanced MNIST
      only as "a 6-layer CNN" with such features; the widths 16, 32, 64 are ours.
    - sphere-resnet32: see `SphereResNet`.
    - torchvision:NAME, timm:NAME: networks of these libraries, unchanged.
    - package.module:function: a network of the user's own, whose code is run. The function is called with `classes`,
      and with `channels`, `size` and `width` if its signature has them.

    Args:
        name: one of `CLASSIFIERS`, or a network of a library.
        classes: number of classes.
        network_options: further arguments of a network of the user's own.
        width: filters of the first stage; 0 for the network's default (64; table 2 of the MHE paper has 16 to 256).
        operator: `none` for ordinary convolutions, or an operator of `SphereConv2d`. All layers but the last, and the
            1x1 shortcuts of the residual network, then become convolutions on angles.
        rescale: these learn SphereNorm; see `SphereConv2d`.
        weight_norm: divide by the norm of the weights in the last layer (`w_norm="cosine"` in spherenet.py).
        bn_momentum: share of a batch in the moving averages of batch normalisation.
        channels: channels of an image.
        size: height and width of an image in pixels.

    Raises:
        UsageError: If no network has this name, or it does not support an option.
        DependencyError: If timm is needed and not installed.
    """
    network: nn.Module
    if is_library_network(name):
        if width or weight_norm or channels != 3:
            raise UsageError("width and weight_norm are for the networks of sfplus, on RGB", where=name)
        network = backbones.build(name, feature_size=classes, crop_size=(size, size))
        return network if operator == "none" else to_sphere(network, operator, rescale=rescale)
    if is_function(name):
        network = call_own(name, *_arguments(classes, channels, size, width, weight_norm), network_options)
        check_features(network, classes, (channels, size, size), name)
        return network.train() if operator == "none" else to_sphere(network.train(), operator, rescale=rescale)
    if network_options:
        raise UsageError("network_options are for networks of your own", where=name)
    norm = functools.partial(nn.BatchNorm2d, eps=BN_EPSILON, momentum=bn_momentum)
    last: _MakeLast = WeightNormLinear if weight_norm else functools.partial(nn.Linear, bias=False)
    if name == "sphere-resnet32":
        network = SphereResNet(classes, width or 96, channels, norm, last)
    elif name in _PLAIN:
        plan = _PLAIN[name]
        widths = [round(factor * (width or plan.width)) for factor in plan.factors]
        network = CNN(classes, plan.convolutions, widths, plan.features, channels, size, norm, last)
    else:
        remedy = suggest(name, CLASSIFIERS) or f"use one of {', '.join(CLASSIFIERS)}, or package.module:function"
        raise UsageError(f"no image classifier is called '{name}'", where="network", remedy=remedy)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):  # N(0, 2 / fan_in) everywhere, the last layer included
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if operator != "none":
        shortcuts = [name for name, _ in network.named_modules() if name.endswith("shortcut")]
        to_sphere(network, operator, rescale=rescale, skip=shortcuts)
    return network


def bind_classifier(
    name: str, network_options: Mapping[str, Any], *, width: int = 0, weight_norm: bool = False
) -> None:
    """Check that a classifier of the user's own takes its options, without calling it; see `create_classifier`.

    Raises:
        UsageError: If there is no such function, or it does not take them.
    """
    bind_own(name, *_arguments(2, 3, 32, width, weight_norm), network_options)


def _arguments(
    classes: int, channels: int, size: int, width: int, weight_norm: bool
) -> tuple[dict[str, Any], dict[str, tuple[Any, Any]]]:
    """Return what a classifier of the user's own must take and what it may take; see `bind_own`."""
    optional = {"channels": (channels, channels), "size": (size, size), "width": (width, 0)}
    return {"classes": classes}, {**optional, "weight_norm": (weight_norm, False)}


class CNN(nn.Module):
    """Stages of 3x3 convolutions, each with batch normalisation and ReLU; each stage ends with 2x2 max pooling.

    A convolution over the remaining map, `fc6`, without normalisation or ReLU, computes the features, and `score` the
    logits. No layer has a bias (MHE, architecture.py; spherenet.py).

    Args:
        classes: number of classes.
        convolutions: number of convolutions in each stage.
        widths: filters of each stage.
        features: length of a feature.
        channels: channels of an image.
        size: height and width of an image in pixels.
        norm: creates the normalisation of a number of channels.
        last: creates the last layer, (features, classes).
    """

    def __init__(
        self,
        classes: int,
        convolutions: int,
        widths: list[int],
        features: int,
        channels: int,
        size: int,
        norm: _MakeNorm,
        last: _MakeLast,
    ) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {}
        for stage, width in enumerate(widths, start=1):
            for layer in range(convolutions):
                layers[f"conv{stage}_{layer}"] = nn.Conv2d(channels, width, 3, padding=1, bias=False)
                layers[f"bn{stage}_{layer}"] = norm(width)
                layers[f"relu{stage}_{layer}"] = nn.ReLU(inplace=True)
                channels = width
            layers[f"pool{stage}"] = nn.MaxPool2d(2, ceil_mode=True)  # TensorFlow's SAME
            size = -(-size // 2)
        layers["fc6"] = nn.Conv2d(channels, features, size, bias=False)
        self.body = nn.Sequential()
        for name, module in layers.items():
            self.body.add_module(name, module)
        self.score = last(features, classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the features (N, features) of images (N, channels, size, size)."""
        return cast(Tensor, self.body(x)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes) of images."""
        return cast(Tensor, self.score(self.features(x)))


class SphereResNet(nn.Module):
    """A residual network of 32 layers for images of 32x32 pixels (SphereNet, sphere_resnet_v1.py).

    `root` is followed by three stages of five units of two 3x3 convolutions with batch normalisation; the first unit of
    stages 2 and 3 has stride 2. Where the width changes, the shortcut is a 1x1 convolution, which stays ordinary. The
    mean over the map is the input of `score`. TensorFlow pads a convolution of stride 2 at the bottom and right edges
    only, torch at all edges, so that the maps are shifted by one pixel against the original.

    Args:
        classes: number of classes.
        width: filters of the first stage, 96 in the original; the later stages have 2 and 4 times as many.
        channels: channels of an image.
        norm: creates the normalisation of a number of channels.
        last: creates the last layer.
    """

    def __init__(
        self,
        classes: int,
        width: int,
        channels: int,
        norm: _MakeNorm,
        last: _MakeLast,
    ) -> None:
        super().__init__()
        root = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.root = nn.Sequential(root, norm(width), nn.ReLU(inplace=True))
        units = []
        before = width
        for stage, filters in enumerate((width, 2 * width, 4 * width)):
            for unit in range(5):
                units.append(_Unit(before, filters, 2 if stage and not unit else 1, norm))
                before = filters
        self.units = nn.Sequential(*units)
        self.score = last(before, classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the features (N, 4 width) of images (N, channels, H, W)."""
        return cast(Tensor, self.units(self.root(x))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes) of images."""
        return cast(Tensor, self.score(self.features(x)))


class _Unit(nn.Module):
    """A residual unit, relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))."""

    def __init__(self, before: int, width: int, stride: int, norm: _MakeNorm) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.first_bn = norm(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_bn = norm(width)
        self.stride = stride
        self.shortcut = self.shortcut_bn = None
        if before != width:
            self.shortcut, self.shortcut_bn = nn.Conv2d(before, width, 1, bias=False), norm(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second_bn(self.second(torch.relu_(self.first_bn(self.first(x)))))
        if self.shortcut is not None and self.shortcut_bn is not None:
            # A strided slice instead of a strided 1x1 convolution: the gradient of the latter writes out of bounds on
            # CPUs for fewer than 8 channels, 16 with AVX-512 (oneDNN issue 6035).
            x = self.shortcut_bn(self.shortcut(x[:, :, :: self.stride, :: self.stride]))
        return F.relu(y + x, inplace=True)
