"""The layers of Caffe as torch modules: adding a type is one function in one of these modules.

A module computes what the layer of Caffe's BVLC branch computes in its phase TEST, unless it names a fork. None
changes its input, keeps state between calls or depends on the number of photos.
"""

from sfplus.weights.caffe_layers import activations, arithmetic, shapes, windows
from sfplus.weights.caffe_layers.arithmetic import BatchNorm, InnerProduct
from sfplus.weights.caffe_layers.registry import LAYERS, LayerError, Shape

__all__ = [
    "LAYERS",
    "BatchNorm",
    "InnerProduct",
    "LayerError",
    "Shape",
    "activations",
    "arithmetic",
    "shapes",
    "windows",
]
