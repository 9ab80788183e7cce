"""Conversion between SphereFace networks and Caffe networks, which have the same layer names and blobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfplus.networks.sphereface import SphereFaceNet
from sfplus.weights.caffe import Blob, CaffeModel
from sfplus.weights.caffe_schema import NetParameter
from sfplus.weights.layouts import ImportedWeights

HEAD_LAYER = "fc6"
_LOSS_LAYERS = {"InterClass"}  # their blobs repeat those of fc6 (SphereFace+)


def from_caffe(model: CaffeModel) -> ImportedWeights:
    """Convert the weights of a Caffe network to the names of this project.

    The first blob of a layer is its `weight`, the second its `bias`. The blobs of a BatchNorm layer are the mean, the
    variance and the factor that both are divided by; a Scale layer `scale*` has the weight and bias of `bn*`. Leading
    ones of legacy shapes are removed. The layer `fc6` is the classifier. The blocks are modern if a PReLU follows a
    sum.
    """
    layers = {layer.name: layer for layer in (*model.net.layers, *model.net.layer)}
    tensors: dict[str, Tensor] = {}
    for name, blobs in model.blobs.items():
        if layers[name].type in _LOSS_LAYERS:
            continue
        if layers[name].type == "BatchNorm" and len(blobs) == 3 and blobs[2].size == 1:
            factor = float(blobs[2].reshape(-1)[0])
            scale = 1 / factor if factor else 0  # as in Caffe
            tensors[f"{name}.running_mean"] = _tensor(blobs[0], 1) * scale
            tensors[f"{name}.running_var"] = _tensor(blobs[1], 1) * scale
            continue
        module = f"bn{name.removeprefix('scale')}" if name.startswith("scale") else name
        for kind, blob in zip(("weight", "bias", *(f"blob{i}" for i in range(2, len(blobs)))), blobs, strict=False):
            dimensions = 2 if name.startswith("fc") else 4 if name.startswith("conv") else 1
            tensors[f"{module}.{kind}"] = _tensor(blob, dimensions if kind == "weight" else 1)
    activations = [layer for layer in layers.values() if layer.name.startswith("relu")]
    modern = any(layer.bottom[:1] and layer.bottom[0].startswith("res") for layer in activations)
    head = tensors.pop(f"{HEAD_LAYER}.weight", None)
    return ImportedWeights(tensors, head, "caffe", "modern" if modern else "original")


def _tensor(blob: Blob, dimensions: int) -> Tensor:
    shape = blob.shape
    while len(shape) > dimensions and shape[0] == 1:
        shape = shape[1:]
    with np.errstate(over="ignore"):  # numbers beyond float32 become infinite, which is refused later
        return torch.from_numpy(np.array(blob, np.float32).reshape(shape))


def to_caffe(network: SphereFaceNet, name: str, head: Tensor | None = None) -> tuple[Any, CaffeModel]:
    """Convert a SphereFace network to a Caffe network.

    Args:
        network: on the CPU.
        name: name of the Caffe network.
        head: the classifier (classes, features), which becomes layer `fc6` of the weights; Caffe needs it to continue
            training.

    Returns:
        The NetParameter message for deployment, with input `data` and output `fc5`, and the weights.
    """
    builder = _CaffeBuilder(network, name)
    for stage, count in enumerate(network.units, start=1):
        builder.add_convolution(stage, 1)
        for layer in range(2, 2 * count + 1, 2):
            builder.add_residual_unit(stage, layer)
    builder.add_linear()
    deploy = type(builder.net)()
    deploy.CopyFrom(builder.net)
    if head is not None:
        bottom, top = ["fc5", "label"], ["fc6", "lambda"]
        builder.net.layer.add(name=HEAD_LAYER, type="MarginInnerProduct", bottom=bottom, top=top)
        builder.blobs[HEAD_LAYER] = (head.detach().float().numpy(),)
    return deploy, CaffeModel(builder.net, builder.blobs)


class _CaffeBuilder:
    """A Caffe network that grows layer by layer; `self.top` is the blob that the next layer reads."""

    def __init__(self, network: SphereFaceNet, name: str) -> None:
        self.state = {key: tensor.detach().numpy() for key, tensor in network.state_dict().items()}
        self.modern, self.batch_norm = network.modern, network.batch_norm
        self.net = NetParameter(name=name, input=["data"])
        self.net.input_dim.extend([1, 3, *network.crop_size])
        self.blobs: dict[str, Sequence[Blob]] = {}
        self.top = "data"

    def add_convolution(self, stage: int, layer: int, activation: bool = True) -> None:
        """Add a convolution with its batch normalisation, if the network has it, and its PReLU."""
        name = f"{stage}_{layer}"
        weight = self.state[f"conv{name}.weight"]
        options = {"num_output": len(weight), "pad": [1], "kernel_size": [3], "stride": [2 if layer == 1 else 1]}
        if self.batch_norm:
            options["bias_term"] = False
        self.add_layer(f"conv{name}", "Convolution", top=f"conv{name}", convolution_param=options)
        self.add_batch_norm(name)
        if activation:
            self.add_prelu(name)

    def add_residual_unit(self, stage: int, layer: int) -> None:
        """Add two convolutions, the first one numbered `layer`, and the sum with their input."""
        shortcut, name = self.top, f"{stage}_{layer + 1}"
        self.add_convolution(stage, layer)
        self.add_convolution(stage, layer + 1, activation=not self.modern)
        self.add_layer(f"res{name}", "Eltwise", [shortcut, self.top], f"res{name}", eltwise_param={"operation": 1})
        if self.modern:
            self.add_prelu(name)

    def add_linear(self) -> None:
        """Add the linear layer that outputs the feature."""
        size = len(self.state["fc5.weight"])
        self.add_layer("fc5", "InnerProduct", top="fc5", inner_product_param={"num_output": size})
        self.add_batch_norm("5")

    def add_prelu(self, name: str) -> None:
        """Add a PReLU, in place."""
        self.add_layer(f"relu{name}", "PReLU")

    def add_batch_norm(self, name: str) -> None:
        """Add batch normalisation by running statistics, if the network has it: two in-place layers in Caffe."""
        if not self.batch_norm:
            return
        mean, variance = (self.state[f"bn{name}.running_{kind}"] for kind in ("mean", "var"))
        self.add_layer(f"bn{name}", "BatchNorm", batch_norm_param={"use_global_stats": True, "eps": 1e-5})
        self.blobs[f"bn{name}"] = (mean, variance, np.ones(1, np.float32))
        self.add_layer(f"scale{name}", "Scale", scale_param={"bias_term": True})
        self.blobs[f"scale{name}"] = (self.state[f"bn{name}.weight"], self.state[f"bn{name}.bias"])

    def add_layer(self, name: str, kind: str, bottom: list[str] | None = None, top: str = "", **options: Any) -> None:
        """Add a layer, in place without `top`, with the weight and bias that the state has under its name."""
        self.net.layer.add(name=name, type=kind, bottom=bottom or [self.top], top=[top or self.top], **options)
        if blobs := [self.state[key] for key in (f"{name}.weight", f"{name}.bias") if key in self.state]:
            self.blobs[name] = blobs
        self.top = top or self.top
