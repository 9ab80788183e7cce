"""SphereFace networks as Caffe networks: layer names and blobs are equal, so that a conversion is a copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfplus.networks.sphereface import INPUTS, SphereFaceNet
from sfplus.weights.caffe import Blob, CaffeModel
from sfplus.weights.caffe_schema import NetParameter
from sfplus.weights.layouts import Layout

HEAD_LAYER = "fc6"
_OUTSIDE = {"InterClass"}  # layers of the loss whose blobs are those of fc6 again (SphereFace+)


def from_caffe(model: CaffeModel) -> Layout:
    """The weights of a Caffe network under our names.

    The first blob of a layer is its `weight`, the second its `bias`; of a BatchNorm layer they are mean, variance and
    the factor that both are divided by, and a Scale layer `scale*` has the weight and bias of `bn*`. Legacy shapes
    lose their leading ones. The layer `fc6` is the classifier. The blocks are modern where a PReLU follows a sum.
    """
    layers = {layer.name: layer for layer in (*model.net.layers, *model.net.layer)}
    tensors: dict[str, Tensor] = {}
    for name, blobs in model.blobs.items():
        if layers[name].type in _OUTSIDE:
            continue
        if layers[name].type == "BatchNorm" and len(blobs) == 3 and blobs[2].size == 1:
            factor = float(blobs[2].reshape(-1)[0])
            scale = 1 / factor if factor else 0  # as in Caffe
            tensors[f"{name}.running_mean"] = _tensor(blobs[0], 1) * scale
            tensors[f"{name}.running_var"] = _tensor(blobs[1], 1) * scale
            continue
        ours = f"bn{name.removeprefix('scale')}" if name.startswith("scale") else name
        for kind, blob in zip(("weight", "bias", *(f"blob{i}" for i in range(2, len(blobs)))), blobs, strict=False):
            dimensions = 2 if name.startswith("fc") else 4 if name.startswith("conv") else 1
            tensors[f"{ours}.{kind}"] = _tensor(blob, dimensions if kind == "weight" else 1)
    after_sum = any(layer.bottom[:1] and layer.bottom[0].startswith("res") for layer in layers.values()
                    if layer.name.startswith("relu"))  # fmt: skip
    head = tensors.pop(f"{HEAD_LAYER}.weight", None)
    return Layout(tensors, head, "caffe", "modern" if after_sum else "original")


def _tensor(blob: Blob, dimensions: int) -> Tensor:
    shape = blob.shape
    while len(shape) > dimensions and shape[0] == 1:
        shape = shape[1:]
    with np.errstate(over="ignore"):  # what float32 does not hold becomes infinite, and is refused as that
        return torch.from_numpy(np.array(blob, np.float32).reshape(shape))


def to_caffe(network: SphereFaceNet, name: str, head: Tensor | None = None) -> tuple[Any, CaffeModel]:
    """A SphereFace network as Caffe sees it.

    Args:
        network: any, on the CPU.
        name: of the Caffe network.
        head: the classifier (classes, features): layer `fc6` of the weights, from which Caffe goes on training.

    Returns:
        The description for deployment, input `data`, output `fc5`; and the weights.
    """
    build = _Builder(network, name)
    for stage, count in enumerate(network.units, start=1):
        build.convolution(stage, 1)
        for first in range(2, 2 * count + 1, 2):
            build.unit(stage, first)
    build.linear()
    deploy = type(build.net)()
    deploy.CopyFrom(build.net)
    if head is not None:
        build.net.layer.add(name=HEAD_LAYER, type="MarginInnerProduct", bottom=["fc5", "label"], top=["fc6", "lambda"])
        build.blobs[HEAD_LAYER] = (head.detach().float().numpy(),)
    return deploy, CaffeModel(build.net, build.blobs)


class _Builder:
    """Adds layer after layer; `self.top` is the blob that the next one reads."""

    def __init__(self, network: SphereFaceNet, name: str) -> None:
        self.state = {key: tensor.detach().numpy() for key, tensor in network.state_dict().items()}
        self.modern = network.options.get("block") == "modern"
        self.norm = "batch_norm" in network.options
        self.net = NetParameter(name=name, input=["data"])
        self.net.input_dim.extend([1, 3, *INPUTS[network.options.get("input", "112x96")]])
        self.blobs: dict[str, Sequence[Blob]] = {}
        self.top = "data"

    def convolution(self, stage: int, layer: int, activate: bool = True) -> None:
        """A convolution, perhaps with its normalisation, and its PReLU."""
        name = f"{stage}_{layer}"
        weight = self.state[f"conv{name}.weight"]
        options = {"num_output": len(weight), "pad": [1], "kernel_size": [3], "stride": [2 if layer == 1 else 1]}
        if self.norm:
            options["bias_term"] = False
        self.add(f"conv{name}", "Convolution", top=f"conv{name}", convolution_param=options)
        self.normalise(name)
        if activate:
            self.activate(name)

    def unit(self, stage: int, first: int) -> None:
        """Two convolutions and the sum with what they read."""
        shortcut, name = self.top, f"{stage}_{first + 1}"
        self.convolution(stage, first)
        self.convolution(stage, first + 1, activate=not self.modern)
        self.top = self.add(f"res{name}", "Eltwise", [shortcut, self.top], f"res{name}", eltwise_param={"operation": 1})
        if self.modern:
            self.activate(name)

    def linear(self) -> None:
        """The feature."""
        size = len(self.state["fc5.weight"])
        self.add("fc5", "InnerProduct", top="fc5", inner_product_param={"num_output": size})
        self.normalise("5")

    def activate(self, name: str) -> None:
        """A PReLU, in place."""
        self.add(f"relu{name}", "PReLU")

    def normalise(self, name: str) -> None:
        """Batch normalisation by the statistics of training: two layers in Caffe, both in place."""
        if not self.norm:
            return
        mean, variance = (self.state[f"bn{name}.running_{kind}"] for kind in ("mean", "var"))
        self.add(f"bn{name}", "BatchNorm", batch_norm_param={"use_global_stats": True, "eps": 1e-5}, blobs=False)
        self.blobs[f"bn{name}"] = (mean, variance, np.ones(1, np.float32))
        self.add(f"scale{name}", "Scale", scale_param={"bias_term": True}, blobs=False)
        self.blobs[f"scale{name}"] = (self.state[f"bn{name}.weight"], self.state[f"bn{name}.bias"])

    def add(
        self, name: str, kind: str, bottom: list[str] | None = None, top: str = "", blobs: bool = True, **options: Any
    ) -> str:
        """A layer; without `top` in place. Its blobs are the weight and bias of that name, where the state has them."""
        self.net.layer.add(name=name, type=kind, bottom=bottom or [self.top], top=[top or self.top], **options)
        found = [self.state[key] for key in (f"{name}.weight", f"{name}.bias") if key in self.state]
        if blobs and found:
            self.blobs[name] = found
        self.top = top or self.top
        return self.top
