"""Which layers of a `.prototxt` compute an output from the photos, and which arrays each one reads and writes.

`caffe_graph` creates the modules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sfplus.errors import suggest
from sfplus.io.limits import limit
from sfplus.weights.caffe_layers import LayerError, Shape
from sfplus.weights.caffe_schema import NetParameter

_SPECIAL_NAMES = {"INNER_PRODUCT": "InnerProduct", "LRN": "LRN", "PRELU": "PReLU", "RELU": "ReLU", "TANH": "TanH",
                  "BNLL": "BNLL", "MVN": "MVN", "ABSVAL": "AbsVal", "ARGMAX": "ArgMax", "IM2COL": "Im2col",
                  "HDF5_DATA": "HDF5Data", "HDF5_OUTPUT": "HDF5Output", "SOFTMAX_LOSS": "SoftmaxWithLoss"}  # fmt: skip
_ENDS = ("Loss", "Accuracy", "WithLoss", "HDF5Output")
_MAX_NAMES = 8  # in a message


@dataclass(frozen=True)
class Step:
    """A layer with the numbers of the blobs that it reads and writes.

    Blobs are counted in the order of their computation: a layer that works in place reads one and writes another.

    Attributes:
        layer: the LayerParameter.
        inputs: the blobs that it reads.
        outputs: the blobs that it writes.
    """

    layer: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """The layers that compute the outputs of a network from one input.

    Attributes:
        input_name: name of the input.
        input: its blob.
        shape: (N, C, H, W) as the file states it, or None.
        steps: in the order of the file.
        outputs: blobs by name, in the order in which they were asked for.
    """

    input_name: str
    input: int
    shape: Shape | None
    steps: Sequence[Step]
    outputs: dict[str, int]


def read_graph(net: Any, output: str) -> Graph:
    """Return the layers of a network in the phase TEST that compute an output.

    Layers that compute a loss or an accuracy, and those that depend on labels, which are the further outputs of a layer
    that reads photos, are left out; so is whatever the outputs do not need.

    Args:
        net: a NetParameter.
        output: names of blobs, separated by commas; default: the one that no layer reads.

    Raises:
        LayerError: If a layer reads a blob that does not exist, or there are several such outputs or inputs.
    """
    layers = _upgrade(net)
    state = net.state if net.HasField("state") else None
    layers = [layer for layer in layers if _is_included(layer, state)]
    sources, steps, ends, latest = _connect(net, layers)
    if not ends:
        raise LayerError("has no layers that compute something from an input in the phase TEST")
    names = [name.strip() for name in output.split(",") if name.strip()]
    if not names and len(ends) > 1:
        raise LayerError(f"has several outputs, {_list(ends)}: name the one that is the feature")
    outputs = {name: _find_output(name, latest, steps, ends) for name in names} or ends
    needed, kept = set(outputs.values()), list[Step]()
    for step in reversed(steps):
        if needed.intersection(step.outputs):
            needed.update(step.inputs)
            kept.append(step)
    used = [number for number in sources if number in needed]
    if len(used) != 1:
        names_of_inputs = _list(sources[number][0] for number in used) or "none"
        raise LayerError(f"reads {len(used)} inputs ({names_of_inputs}), only networks of one are supported")
    name, shape = sources[used[0]]
    return Graph(name, used[0], _check_input(name, shape), kept[::-1], outputs)


def _upgrade(net: Any) -> list[Any]:
    """Return the layers as LayerParameter, those of 2014 (`layers`, V1) converted."""
    if net.layer and net.layers:
        raise LayerError("has layers of both formats, `layer` and `layers`")
    layers = [*net.layer]
    for old in net.layers:
        new = type(NetParameter().layer.add())()
        new.name = old.name
        key = old.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number[old.type].name
        new.type = _SPECIAL_NAMES.get(key, key.title().replace("_", ""))
        for field, value in old.ListFields():
            if field.name in ("bottom", "top", "include", "exclude"):
                getattr(new, field.name).extend(value)
            elif field.name.endswith("_param"):
                getattr(new, field.name).CopyFrom(value)
        layers.append(new)
    return layers


def _is_included(layer: Any, state: Any) -> bool:
    """Return whether a layer exists in the phase TEST, by its rules `include` and `exclude`."""
    level, stages = (state.level, set(state.stage)) if state is not None else (0, set[str]())

    def applies(rule: Any) -> bool:
        return (
            (not rule.HasField("phase") or rule.phase == 1)
            and (not rule.HasField("min_level") or level >= rule.min_level)
            and (not rule.HasField("max_level") or level <= rule.max_level)
            and stages.issuperset(rule.stage)
            and stages.isdisjoint(rule.not_stage)
        )

    return any(map(applies, layer.include)) if layer.include else not any(map(applies, layer.exclude))


def _connect(
    net: Any, layers: list[Any]
) -> tuple[dict[int, tuple[str, Shape | None]], list[Step], dict[str, int], dict[str, int | None]]:
    """Return the inputs by blob, the steps, the blobs that no step reads, and the last blob of each name.

    A blob that depends on labels is None.
    """
    sources: dict[int, tuple[str, Shape | None]] = {}
    latest: dict[str, int | None] = {}
    steps: list[Step] = []
    read = set[int]()
    count = 0
    for name, shape in _named_inputs(net):
        sources[count], latest[name], count = (name, shape), count, count + 1
    for layer in layers:
        kind = layer.type
        missing = [name for name in layer.bottom if name not in latest]
        if missing:
            raise LayerError(f"layer '{layer.name}' ({kind}) reads '{missing[0]}', which no layer before it writes")
        repeated = [name for i, name in enumerate(layer.top) if name in layer.top[:i]]
        repeated += [name for name in layer.top if name in latest and name not in layer.bottom]
        if repeated:
            raise LayerError(f"layer '{layer.name}' ({kind}) writes '{repeated[0]}', which another layer writes")
        inputs = [latest[name] for name in layer.bottom]
        numbers = [number for number in inputs if number is not None]
        if kind == "Silence":
            read.update(numbers)
        elif not layer.bottom and (kind == "Input" or kind.endswith("Data") or kind == "Python"):
            shapes = _source_shapes(layer)
            for index, name in enumerate(layer.top):
                is_label = kind != "Input" and index > 0
                latest[name] = None if is_label else count
                if not is_label:
                    sources[count], count = (name, shapes[index] if index < len(shapes) else None), count + 1
        elif len(numbers) < len(inputs) or kind.endswith(_ENDS):
            latest.update(dict.fromkeys(layer.top))
        else:
            outputs = tuple(range(count, count + len(layer.top)))
            count += len(outputs)
            read.update(numbers)
            steps.append(Step(layer, tuple(numbers), outputs))
            latest.update(zip(layer.top, outputs, strict=True))
    written = {number: name for step in steps for name, number in zip(step.layer.top, step.outputs, strict=True)}
    return sources, steps, {name: number for number, name in written.items() if number not in read}, latest


def _named_inputs(net: Any) -> Iterable[tuple[str, Shape | None]]:
    """Return the names and shapes of `input:` with `input_shape` or `input_dim`."""
    dims = list(net.input_dim)
    for index, name in enumerate(net.input):
        if index < len(net.input_shape):
            yield name, tuple(net.input_shape[index].dim)
        else:
            yield name, tuple(dims[4 * index : 4 * index + 4]) or None


def _source_shapes(layer: Any) -> list[Shape]:
    """Return the shapes of the outputs of a layer without inputs, as far as it states them."""
    if layer.type == "Input":
        shapes = [tuple(shape.dim) for shape in layer.input_param.shape]
        return shapes * len(layer.top) if len(shapes) == 1 else shapes
    options, transform, images = layer.dummy_data_param, layer.transform_param, layer.image_data_param
    if options.shape:
        return [tuple(options.shape[0].dim)]
    if options.num:
        return [
            tuple(sizes[0] if sizes else 0 for sizes in (options.num, options.channels, options.height, options.width))
        ]
    if layer.HasField("memory_data_param"):
        memory = layer.memory_data_param
        return [(memory.batch_size, memory.channels, memory.height, memory.width)]
    height, width = [transform.crop_size] * 2 if transform.crop_size else (images.new_height, images.new_width)
    grey = transform.force_gray or (images.HasField("is_color") and not images.is_color)
    return [(1, 1 if grey else 3, height, width)] if height and width else []


def _check_input(name: str, shape: Shape | None) -> Shape | None:
    if shape is None:
        return None
    count = 1
    for size in shape:
        count *= max(size, 0)
    most = limit("caffe_blob_numbers")
    if len(shape) != 4 or not 0 < count <= most or min(shape) < 1:
        reason = f"states the shape {shape[:8]} for its input '{name}'"
        raise LayerError(f"{reason}; photos are (N, C, H, W), of 1 to {most:,} numbers")
    return shape


def _find_output(name: str, latest: dict[str, int | None], steps: list[Step], ends: dict[str, int]) -> int:
    number = latest.get(name)
    if number is None or not any(number in step.outputs for step in steps):
        written = [top for step in steps for top in step.layer.top]
        reason = "depends on labels" if name in latest and number is None else "does not exist"
        raise LayerError(f"has no output '{name}': it {reason}; {suggest(name, written) or f'it has {_list(ends)}'}")
    return number


def _list(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_MAX_NAMES]) + (", ..." if len(names) > _MAX_NAMES else "")
