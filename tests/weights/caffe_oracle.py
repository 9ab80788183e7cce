"""Weights of a torch module as Caffe's blobs, and the outputs that OpenCV's importer computes."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import torch

from sfplus.weights.caffe import Blob, CaffeModel, write_caffemodel
from sfplus.weights.caffe_graph import CaffeNetwork
from sfplus.weights.prototxt import read_prototxt


def write_weights(network: CaffeNetwork, path: Path) -> None:
    """Write the weights of a network as a `.caffemodel`, in the order and shapes of Caffe."""
    prototxt = path.with_name("written.prototxt")
    prototxt.write_bytes(network.prototxt)
    net = read_prototxt(prototxt)
    blobs: dict[str, list[Blob]] = {}
    for layer, module in zip(net.layer, network.children(), strict=True):
        arrays = [tensor.numpy() for tensor in module.state_dict().values()]
        if layer.type == "BatchNorm":  # sums, and the factor that they are divided by
            arrays = [arrays[0] * np.float32(4), arrays[1] * np.float32(4), np.array([4], np.float32)]
        if layer.type == "InnerProduct" and layer.inner_product_param.transpose:
            arrays[0] = arrays[0].T
        if arrays:
            blobs[layer.name] = arrays
    write_caffemodel(path, CaffeModel(net, blobs))


def opencv_outputs(prototxt: Path, weights: Path, data: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return blobs by name, of a photo at a time, because some of OpenCV's layers take only one."""
    text = prototxt.read_text()
    copy = weights.with_name("opencv.prototxt")
    copy.write_text(re.sub(r'type:\s*"(Depthwise\w+|ConvolutionDepthwise)"', 'type: "Convolution"', text))
    net = cv2.dnn.readNetFromCaffe(str(copy), str(weights))
    known = set(net.getLayerNames())
    last = {}  # layer and index of its output; OpenCV renames some layers at the end after their output
    for layer in read_prototxt(prototxt).layer:
        last |= {top: (layer.name if layer.name in known else top, i) for i, top in enumerate(layer.top)}
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
    layers = list(dict.fromkeys(last[name][0] for name in names))
    for photo in data:
        net.setInput(photo[None])
        values = dict(zip(layers, net.forwardAndRetrieve(layers), strict=True))
        for name in names:
            layer_name, index = last[name]
            rows[name].append(values[layer_name][index].copy())
    return {name: np.concatenate(values) for name, values in rows.items()}


def relative_difference(network: CaffeNetwork, expected: dict[str, np.ndarray], data: np.ndarray) -> float:
    """Return the largest difference of a number, relative to the largest number of its blob."""
    with torch.inference_mode():
        actual = network.forward_all(torch.from_numpy(data))
    differences = []
    for name, value in expected.items():
        assert actual[name].shape == value.shape, f"{name}: {tuple(actual[name].shape)}, OpenCV {value.shape}"
        differences.append(np.abs(actual[name].numpy() - value).max() / max(np.abs(value).max(), 1e-30))
    return float(max(differences))
