"""Any Caffe network as a torch module, built by the layers of its `.prototxt`, without Caffe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf import text_format
from torch import Tensor, nn

from sfplus.alignment.templates import TEMPLATE_OF_SIZE
from sfplus.errors import WeightsError, first_line
from sfplus.io.limits import limit
from sfplus.networks import parse_size
from sfplus.weights.caffe import Blob, read_caffemodel
from sfplus.weights.caffe_layers import LAYERS, BatchNorm, InnerProduct, LayerError, Shape
from sfplus.weights.caffe_schema import NetParameter
from sfplus.weights.caffe_steps import Graph, read_graph
from sfplus.weights.prototxt import parse_prototxt, read_prototxt


@dataclass(frozen=True)
class _Step:
    """A call of a module: blobs by number, and those that no later call reads."""

    module: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    released: tuple[int, ...]


class CaffeNetwork(nn.Module):
    """A Caffe network: (N, C, H, W) -> the blob `output`.

    `read_caffe_network` creates it. Modules have the names of the layers, with `_` for each dot and after names that
    torch needs itself. In training mode too it computes what Caffe computes in its phase TEST.

    Attributes:
        input_shape: channels, height and width of the input in pixels; None if neither the file nor the weights fix
            it.
        output: name of the blob that `forward` returns.
        outputs: names of the blobs that `forward_all` returns.
        prototxt: description of the layers that the outputs need, which `caffe_network_from_text` reads.
    """

    input_shape: tuple[int, int, int] | None
    output: str
    outputs: tuple[str, ...]
    prototxt: bytes

    def __init__(self, graph: Graph, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.input_shape, self.prototxt = None, b""
        self.output, self.outputs = next(iter(graph.outputs)), tuple(graph.outputs)
        self._input, self._numbers = graph.input, tuple(graph.outputs.values())
        last = {number: index for index, step in enumerate(graph.steps) for number in (*step.inputs, *step.outputs)}
        last |= dict.fromkeys(self._numbers, len(modules))
        steps = []
        for index, (step, module) in enumerate(zip(graph.steps, modules, strict=True)):
            name = step.layer.name.replace(".", "_") or step.layer.type.lower()
            while hasattr(self, name):
                name += "_"
            self.add_module(name, module)
            released = {number for number in (*step.inputs, *step.outputs) if last[number] == index}
            steps.append(_Step(name, step.inputs, step.outputs, tuple(sorted(released))))
        self._steps = tuple(steps)

    def forward(self, x: Tensor) -> Tensor:
        """Return the blob `output` of photos (N, C, H, W), for any N."""
        return self._run(x)[0]

    def forward_all(self, x: Tensor) -> dict[str, Tensor]:
        """Return the blobs `outputs` by name."""
        return dict(zip(self.outputs, self._run(x), strict=True))

    def _run(self, x: Tensor) -> list[Tensor]:
        blobs = {self._input: x}
        for step in self._steps:
            result = self._modules[step.module](*(blobs[number] for number in step.inputs))  # type: ignore[misc]
            results = result if isinstance(result, tuple) else (result,)
            blobs.update(zip(step.outputs, results, strict=True))
            for number in step.released:
                del blobs[number]
        return [blobs[number] for number in self._numbers]


def read_caffe_network(prototxt: Path, weights: Path | None = None, output: str = "") -> CaffeNetwork:
    """Read any Caffe network whose layers are known, as a module in evaluation mode on the CPU.

    The layers are those of the phase TEST that the output needs. Layers of training, which compute a loss or depend on
    labels, are left out, so that a description for training can be read too.

    Args:
        prototxt: the description, in the current format or the one before it (V1).
        weights: the `.caffemodel`; default: random weights, from torch's generator.
        output: name of the blob that is the feature, or names of several, separated by commas, for `forward_all`;
            default: the one that no layer reads.

    Raises:
        WeightsError: If a file cannot be read, a layer is unknown or does not fit its inputs or its weights, or there
            are several outputs; the message names the layer.
    """
    prototxt = Path(prototxt)
    blobs = None if weights is None else read_caffemodel(Path(weights)).blobs
    network = _build(read_prototxt(prototxt), prototxt, output, blobs, Path(weights or prototxt))
    if blobs is None:
        _draw_weights(network)
    return network.eval()


def caffe_network_from_text(text: bytes, where: Path, output: str = "") -> CaffeNetwork:
    """Create the network of a `.prototxt` with weights on the meta device, for `model_folder.assign_tensors`.

    Args:
        text: the description, such as `CaffeNetwork.prototxt`.
        where: its file, for messages.
        output: see `read_caffe_network`.

    Raises:
        WeightsError: See `read_caffe_network`.
    """
    return _build(parse_prototxt(text, where), where, output, None, where).eval()


def _build(
    net: Any, where: Path, output: str, blobs: Mapping[str, Sequence[Blob]] | None, weights: Path
) -> CaffeNetwork:
    try:
        graph = read_graph(net, output)
    except LayerError as error:
        raise WeightsError(str(error), where=where) from None
    candidates = [graph.shape] if graph.shape else _usual_shapes(graph, blobs)
    errors: list[WeightsError] = []
    for shape in candidates:
        try:
            modules, linear = _create_modules(graph, (1, *shape[1:]), shape[0], where)
            network = CaffeNetwork(graph, modules)
            if blobs is not None:
                _assign_blobs(network, graph, blobs, weights)
        except WeightsError as error:
            errors.append(error)
            continue
        fixed = graph.shape is not None or (linear and blobs is not None)
        network.input_shape = (shape[1], shape[2], shape[3]) if fixed else None
        network.prototxt = _describe(net.name, graph, shape)
        return network
    raise errors[0]


def _usual_shapes(graph: Graph, blobs: Mapping[str, Sequence[Blob]] | None) -> list[Shape]:
    """Return the shapes to try where the file states none: the sizes of crops, with the channels of the weights."""
    channels = 3
    for step in graph.steps:
        layer_blobs = (blobs or {}).get(step.layer.name)
        if step.layer.type == "Convolution" and graph.input in step.inputs and layer_blobs and layer_blobs[0].ndim == 4:
            channels = layer_blobs[0].shape[1] * max(step.layer.convolution_param.group, 1)
            break
    return [(1, channels, *parse_size(size)) for size in TEMPLATE_OF_SIZE]


def _create_modules(graph: Graph, shape: Shape, batch: int, where: Path) -> tuple[list[nn.Module], bool]:
    """Create the modules, on the meta device, and return whether one of them fixes the size of the input."""
    shapes: dict[int, Shape] = {graph.input: shape}
    modules, names, total, linear = list[nn.Module](), set[str](), 0, False
    most_computed, most_weights = limit("caffe_blob_numbers"), limit("caffe_numbers")
    for step in graph.steps:
        layer, inputs = step.layer, [shapes[number] for number in step.inputs]
        try:
            if layer.type not in LAYERS:
                raise LayerError("is of a type that is not known")
            layer = _with_any_batch(layer, batch)
            with torch.device("meta"):
                module, results = LAYERS[layer.type](layer, inputs)
            if len(results) != len(step.outputs):
                raise LayerError(f"has {len(step.outputs)} outputs, needs {len(results)}")
            if any(math.prod(result) > most_computed for result in results):
                raise LayerError(f"computes more than {most_computed:,} numbers for a photo")
            count = sum(tensor.numel() for tensor in module.state_dict().values())
            total += count
            if total > most_weights:
                raise LayerError(f"brings the weights to more than {most_weights:,} numbers")
            if count and layer.name in names:
                raise LayerError("has the name of another layer with weights")
        except (LayerError, RuntimeError, ValueError, OverflowError) as error:
            reads = ", ".join(layer.bottom[:4])
            remedy = f"name an output before it; it reads {reads}" if layer.type not in LAYERS else ""
            raise WeightsError(
                f"layer '{layer.name}' ({layer.type}) {first_line(error)}", where=where, remedy=remedy
            ) from None
        names.update([layer.name] if count else [])
        shapes.update(zip(step.outputs, results, strict=True))
        modules.append(module)
        linear = linear or isinstance(module, InnerProduct)
    for name, number in graph.outputs.items():
        if shapes[number][:1] != (1,):
            raise WeightsError(f"output '{name}' does not have a row for each photo: {shapes[number]}", where=where)
    return modules, linear


def _with_any_batch(layer: Any, batch: int) -> Any:
    """Return a Reshape layer that keeps the number of photos instead of the one for which the file was written."""
    dims = layer.reshape_param.shape.dim
    if layer.type != "Reshape" or batch == 1 or layer.reshape_param.axis or not dims or dims[0] != batch:
        return layer
    changed = type(layer)()
    changed.CopyFrom(layer)
    changed.reshape_param.shape.dim[0] = 1
    return changed


def _describe(name: str, graph: Graph, shape: Shape) -> bytes:
    net = NetParameter(name=name, input=[graph.input_name])
    net.input_shape.add().dim.extend([1, *shape[1:]])
    for step in graph.steps:
        layer = net.layer.add()
        layer.CopyFrom(_with_any_batch(step.layer, shape[0]))
        for key in ("blobs", "include", "exclude", "phase", "param", "propagate_down", "loss_weight"):
            layer.ClearField(key)
    text: str = text_format.MessageToString(net, as_utf8=True)
    return text.encode()


def _assign_blobs(network: CaffeNetwork, graph: Graph, blobs: Mapping[str, Sequence[Blob]], where: Path) -> None:
    for step, module in zip(graph.steps, network.children(), strict=True):
        expected = module.state_dict()
        if not expected:
            continue
        layer = f"layer '{step.layer.name}' ({step.layer.type})"
        arrays = list(blobs.get(step.layer.name, ()))
        if not arrays:
            raise WeightsError(f"has no weights for {layer}", where=where, remedy="use the .prototxt of this file")
        if isinstance(module, BatchNorm) and len(arrays) == 3 and arrays[2].size == 1:
            factor = float(arrays.pop().reshape(-1)[0])
            arrays = [array * np.float32(1 / factor if factor else 0) for array in arrays]  # as in Caffe
        if isinstance(module, InnerProduct) and module.transposed:
            arrays[0] = np.swapaxes(arrays[0], -1, -2) if arrays[0].ndim > 1 else arrays[0]
        if len(arrays) != len(expected):
            reason = f"has {len(arrays)} arrays for {layer}, which needs {len(expected)}: {', '.join(expected)}"
            raise WeightsError(reason, where=where, remedy="use the .prototxt of this file")
        tensors = {}
        for (name, tensor), array in zip(expected.items(), arrays, strict=True):
            tensors[name] = _to_tensor(array, tuple(tensor.shape), f"{name} of {layer}", where)
        module.load_state_dict(tensors, assign=True)


def _to_tensor(array: Blob, shape: Shape, what: str, where: Path) -> Tensor:
    """Return an array as float32 of a shape that differs at most by leading ones, as in files of 2014."""
    if _without_leading_ones(array.shape) != _without_leading_ones(shape):
        reason = f"{what} is {array.shape}, the .prototxt needs {shape}"
        raise WeightsError(reason, where=where, remedy="use the .prototxt of this file")
    with np.errstate(over="ignore"):  # numbers beyond float32 become infinite, which is refused
        tensor = torch.from_numpy(np.array(array, np.float32).reshape(shape))
    if not math.isfinite(sum(map(float, tensor.aminmax()))):
        raise WeightsError(f"{what} does not hold finite numbers", where=where, remedy="get the file again")
    return tensor


def _without_leading_ones(shape: Shape) -> Shape:
    first = next((i for i, size in enumerate(shape) if size != 1), len(shape))
    return shape[first:]


@torch.no_grad()
def _draw_weights(network: CaffeNetwork) -> None:
    """Draw weights that keep the size of the numbers from layer to layer."""
    network.to_empty(device="cpu")
    for module in network.children():
        for name, tensor in module.state_dict().items():
            if tensor.dim() > 1 and name == "weight":
                nn.init.kaiming_normal_(tensor, a=1)
            elif isinstance(module, nn.PReLU):
                nn.init.uniform_(tensor, 0.1, 0.4)
            elif name in ("weight", "running_var"):
                nn.init.uniform_(tensor, 0.5, 1.5)
            else:
                nn.init.normal_(tensor, std=0.1)
