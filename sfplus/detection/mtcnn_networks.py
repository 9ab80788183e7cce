"""The three networks of MTCNN with facenet-pytorch's weights, run in few passes over memory.

The layers are those of facenet-pytorch's models/mtcnn.py. Images have a fourth channel with zero weights, because
pixels of 16 bytes are gathered three times as fast as pixels of 12. PReLU and pooling work on rows of pixels and
channels.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, max_pool2d, pad, prelu

from sfplus.device import Device
from sfplus.errors import DependencyError
from sfplus.io.extras import pip_command

_LAYERS: dict[str, dict[str, tuple[int, ...]]] = {
    "pnet": {
        "conv1": (10, 3, 3, 3), "conv2": (16, 10, 3, 3), "conv3": (32, 16, 3, 3),
        "conv4_1": (2, 32, 1, 1), "conv4_2": (4, 32, 1, 1),
    },
    "rnet": {
        "conv1": (28, 3, 3, 3), "conv2": (48, 28, 3, 3), "conv3": (64, 48, 2, 2),
        "dense4": (128, 576), "dense5_1": (2, 128), "dense5_2": (4, 128),
    },
    "onet": {
        "conv1": (32, 3, 3, 3), "conv2": (64, 32, 3, 3), "conv3": (64, 64, 3, 3), "conv4": (128, 64, 2, 2),
        "dense5": (256, 1152), "dense6_1": (2, 256), "dense6_2": (4, 256), "dense6_3": (10, 256),
    },
}  # fmt: skip


class MtcnnNetworks:
    """P-Net, R-Net and O-Net on a device; inputs are float32 (N, 4, H, W) in channels_last, outputs float32.

    Args:
        device: the device of the networks.
        precision: of the layers' arithmetic, see `Device.autocast`.

    Raises:
        DependencyError: If facenet-pytorch is missing or broken.
        UsageError: If the device does not support this precision.
    """

    def __init__(self, device: Device, precision: str = "float32") -> None:
        self._autocast = functools.partial(device.autocast, precision)
        self._autocast()
        networks = _load_networks()
        for network in networks:
            network.conv1.weight = nn.Parameter(pad(network.conv1.weight, (0, 0, 0, 0, 0, 1)))
        self._p: Any
        self._r: Any
        self._o: Any
        self._p, self._r, self._o = map(device.move, networks)

    def search(self, pixels: Tensor, padding: Sequence[tuple[slice, slice]]) -> tuple[Tensor, Tensor]:
        """Run P-Net without its last layer for boxes.

        Args:
            pixels: (N, 4, H, W), H and W even.
            padding: rows and columns after the first layer that pooling must ignore.

        Returns:
            Scores (N, h, w) and features (N, h, w, 32) of all cells.
        """
        with self._autocast():
            return self._search(pixels, padding)

    def _search(self, pixels: Tensor, padding: Sequence[tuple[slice, slice]]) -> tuple[Tensor, Tensor]:
        net = self._p
        maps = _layer(net.conv1, net.prelu1, pixels)
        for rows, columns in padding:
            maps[:, :, rows, columns] = -torch.inf
        maps = torch.maximum(maps[:, :, ::2], maps[:, :, 1::2])
        maps = torch.maximum(maps[..., ::2], maps[..., 1::2])
        features = _layer(net.conv3, net.prelu3, _layer(net.conv2, net.prelu2, maps)).permute(0, 2, 3, 1)
        # The softmax of two numbers is the sigmoid of their difference.
        weight, bias = (part[1] - part[0] for part in (net.conv4_1.weight.flatten(1), net.conv4_1.bias))
        return (features @ weight + bias).float().sigmoid_(), features

    def shift(self, features: Tensor) -> Tensor:
        """Run the last layer of P-Net on features (N, 32): box shifts (N, 4)."""
        return linear(features.float(), self._p.conv4_2.weight.flatten(1), self._p.conv4_2.bias)

    def refine(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Run R-Net on (N, 4, 24, 24): scores (N,) and box shifts (N, 4)."""
        net = self._r
        with self._autocast():
            maps = _halve(_layer(net.conv1, net.prelu1, pixels))
            maps = _halve(_layer(net.conv2, net.prelu2, maps))
            maps = _layer(net.conv3, net.prelu3, maps)
            hidden = _dense(net.dense4, maps.permute(0, 3, 2, 1).flatten(1))
        hidden = prelu(hidden.float(), net.prelu4.weight)
        return _dense(net.dense5_1, hidden).softmax(1)[:, 1], _dense(net.dense5_2, hidden)

    def output(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run O-Net on (N, 4, 48, 48): scores (N,), box shifts (N, 4) and landmarks (N, 10), all x before all y."""
        net = self._o
        with self._autocast():
            maps = _halve(_layer(net.conv1, net.prelu1, pixels))
            maps = _halve(_layer(net.conv2, net.prelu2, maps))
            maps = max_pool2d(_layer(net.conv3, net.prelu3, maps), 2, ceil_mode=True)
            maps = _layer(net.conv4, net.prelu4, maps)
            hidden = _dense(net.dense5, maps.permute(0, 3, 2, 1).flatten(1))
        hidden = prelu(hidden.float(), net.prelu5.weight)
        scores = _dense(net.dense6_1, hidden).softmax(1)[:, 1]
        return scores, _dense(net.dense6_2, hidden), _dense(net.dense6_3, hidden)


def _layer(convolution: Any, slopes: Any, maps: Tensor) -> Tensor:
    """Apply a convolution and PReLU."""
    maps = conv2d(maps, convolution.weight, convolution.bias).permute(0, 2, 3, 1)
    rows = prelu(maps.reshape(-1, maps[0, 0].numel()), slopes.weight.to(maps.dtype).expand(maps.shape[2], -1).flatten())
    return rows.view(maps.shape).permute(0, 3, 1, 2)


def _halve(maps: Tensor) -> Tensor:
    """Pool by the maximum of 3x3 with stride 2; windows that start on the map count (Caffe, `ceil_mode`)."""
    for axis in (2, 3):
        maps = maps.movedim(axis, 0)
        first, second, third = maps[::2], maps[1::2], maps[2::2]
        halved = torch.maximum(first[: len(second)], second)
        torch.maximum(halved[: len(third)], third, out=halved[: len(third)])
        maps = halved.movedim(0, axis)
    return maps


def _dense(layer: Any, inputs: Tensor) -> Tensor:
    return linear(inputs, layer.weight, layer.bias)


def _load_networks() -> list[Any]:
    """Return P-Net, R-Net and O-Net as modules of weights.

    They are read from the files of facenet-pytorch. Its code would import torchvision (see `torchvision_nms`).
    """
    spec = importlib.util.find_spec("facenet_pytorch")
    if not spec or not spec.origin:
        raise DependencyError("the detector needs facenet-pytorch, which is not installed", remedy=_remedy())
    folder = Path(spec.origin).parent / "data"
    try:
        return [_read_network(folder / f"{name}.pt") for name in ("pnet", "rnet", "onet")]
    except Exception as error:
        raise DependencyError(f"facenet-pytorch is installed but broken ({error})", remedy=_remedy()) from error


def _read_network(file: Path) -> Any:
    network: Any = nn.Module()
    weights = torch.load(file, map_location="cpu", weights_only=True)
    expected = dict(_expected_shapes(_LAYERS[file.stem]))
    if (shapes := {name: tuple(weight.shape) for name, weight in weights.items()}) != expected:
        name = sorted(name for name, _ in shapes.items() ^ expected.items())[0]
        raise ValueError(f"{file.name}: {name} has shape {shapes.get(name)}, not {expected.get(name)}")
    for name, weight in weights.items():
        layer, _, part = name.partition(".")
        if not hasattr(network, layer):
            network.add_module(layer, nn.Module())
        network.get_submodule(layer).register_parameter(part, nn.Parameter(weight.float().contiguous()))
    return network


def _expected_shapes(layers: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the names and shapes of the weights of a network, with a PReLU after each layer but the last ones."""
    for name, shape in layers.items():
        yield f"{name}.weight", shape
        yield f"{name}.bias", shape[:1]
        if "_" not in name:
            yield f"prelu{name[-1]}.weight", shape[:1]


def _remedy() -> str:
    """Return how to install the package; its pins of other packages are too old to be followed."""
    return f"run: {pip_command()} install --no-deps facenet-pytorch==2.6.0"
