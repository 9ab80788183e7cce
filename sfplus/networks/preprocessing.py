"""What a network expects of its crops: template, order of channels, mean and scale, layout; with presets by name.

Importing this module does not import torch.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from sfplus.errors import UsageError, suggest

Channels = Literal["rgb", "bgr"]
Layout = Literal["nchw", "nhwc"]
_DEFAULT_TEMPLATE = "sphereface-112x96"
_LARGEST = 1e6  # of a mean or a scale: pixels are 0 to 255, and products must stay far from infinity


@dataclass(frozen=True)
class Preprocessing:
    """The conversion of aligned crops to the input of a network, `(x - mean) / scale`, and what its output is.

    Attributes:
        template: name of the crop template.
        channels: order of the channels, `rgb` or `bgr`.
        mean: values of 0..255 that become 0; one, or one for each channel in the order of `channels`.
        scale: differences from the mean that become 1, likewise.
        layout: `nchw`, (N, 3, H, W), or `nhwc`, (N, H, W, 3).
        mirror: whether a feature is that of the crop followed by that of its mirror image (SphereFace, evaluation.m).
        output: name of the output that holds the features; empty for the only one.

    Raises:
        UsageError: If a value is not one of these; the template is checked when the model is loaded.
    """

    template: str = _DEFAULT_TEMPLATE
    channels: Channels = "bgr"
    mean: tuple[float, ...] = (127.5,)
    scale: tuple[float, ...] = (128.0,)
    layout: Layout = "nchw"
    mirror: bool = True
    output: str = ""

    def __post_init__(self) -> None:
        for key, kind in (("channels", Channels), ("layout", Layout)):
            if (value := getattr(self, key)) not in get_args(kind):
                raise _invalid(f"{key} is '{value}'", f"use {' or '.join(get_args(kind))}")
        for key in ("mean", "scale"):
            values = getattr(self, key)
            if len(values) not in (1, 3) or not all(math.isfinite(value) for value in values):
                raise _invalid(f"{key} is {_format(values[:9]) or 'empty'}", "give one finite number, or three")
        if not all(value > 0 for value in self.scale):
            raise _invalid(f"scale is {_format(self.scale)}", "give positive numbers, such as 127.5")
        if max(map(abs, self.mean)) > _LARGEST or not all(1 / _LARGEST <= value <= _LARGEST for value in self.scale):
            reason = f"mean is {_format(self.mean)} and scale {_format(self.scale)}"
            raise _invalid(reason, "give numbers that fit pixels of 0 to 255")

    def __str__(self) -> str:
        mirror = ", with mirror image" if self.mirror else ""
        values = f"(x - {_format(self.mean)}) / {_format(self.scale)}"
        if (self.mean, self.scale) == ((0.0,), (1.0,)):
            values = "0 to 255"
        return f"{self.template} crops, {self.channels.upper()}, {values}, {self.layout.upper()}{mirror}"

    def to_config(self) -> dict[str, Any]:
        """Return the values for `config.json`, without the template, which has a key of its own there."""
        values = asdict(self) | {"mean": list(self.mean), "scale": list(self.scale)}
        return {key: value for key, value in values.items() if key != "template"}


def _preset(template: str, channels: Channels, mean: float, scale: float) -> Preprocessing:
    return Preprocessing(template, channels, (mean,), (scale,), mirror=False)


PRESETS = {
    "sphereface": Preprocessing(),
    "opensphere": Preprocessing("arcface-112x112", "rgb", scale=(127.5,)),
    "insightface": _preset("arcface-112x112", "rgb", 127.5, 127.5),
    "adaface": _preset("arcface-112x112", "bgr", 127.5, 127.5),
    "sface": _preset("arcface-112x112", "rgb", 0, 1),
    "mobilefacenet": _preset("arcface-112x112", "rgb", 127.5, 128),
    "imagenet": Preprocessing(
        "arcface-112x112", "rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), mirror=False
    ),
    "facenet": _preset("facenet-160x160", "rgb", 127.5, 128),
    "dlib": Preprocessing("dlib-150x150", "rgb", (122.782, 117.001, 104.298), (256.0,), mirror=False),
}
"""By name: SphereFace and its ports; OpenSphere; insightface's ArcFace in ONNX (arcface_onnx.py); AdaFace (mk-minchul,
inference.py); OpenCV's SFace, which normalises inside the graph; MobileFaceNet (sirius-ai); networks trained with
ImageNet's mean and standard deviation, such as foamliu's MobileFaceNet; FaceNet (facenet-pytorch, fixed image
standardisation); dlib's ResNet and its conversions (dlib, `input_rgb_image`; the scale is 256)."""


def parse_preprocessing(text: str, base: Preprocessing | None = None) -> Preprocessing:
    """Read a description such as `insightface` or `template=arcface-112x112,channels=rgb,mean=127.5,scale=127.5`.

    A preset comes first; `key=value` after it changes one of its values. Three numbers are written one after the other:
    `mean=123.7,116.3,103.5`.

    Args:
        text: the description.
        base: what is changed where the text names no preset; default: SphereFace's.

    Raises:
        UsageError: If a preset, a key or a value is unknown; the message lists the valid ones.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    result = base or PRESETS["sphereface"]
    if parts and "=" not in parts[0]:
        result = _find_preset(parts.pop(0))
    values: dict[str, list[str]] = {}
    key = ""
    for part in parts:
        if "=" in part:
            key, _, part = (word.strip() for word in part.partition("="))
            if key in values:
                raise _invalid(f"{key} is given twice", "give each key once")
            values[key] = []
        if not key:
            raise _invalid(f"'{part}' has no key", "write key=value after the preset, such as channels=rgb")
        values[key].append(part)
    return replace(result, **{key: _parse_value(key, value) for key, value in values.items()})


def read_preprocessing(config: dict[str, Any]) -> Preprocessing:
    """Return the preprocessing that a `config.json` describes; without the key, that of SphereFace.

    Raises:
        UsageError: If a key or a value is not valid.
    """
    values = config.get("preprocessing", {})
    keys = {field.name for field in fields(Preprocessing)}
    if not isinstance(values, dict) or not values.keys() <= keys:
        raise _invalid("the key preprocessing is not valid", f"its keys are {', '.join(sorted(keys))}")
    result: dict[str, Any] = dict(values)
    for key in ("mean", "scale"):
        numbers = result.get(key, [0.0])
        if not isinstance(numbers, list) or not all(_is_float(number) for number in numbers):
            raise _invalid(f"{key} is {numbers!r:.40}", "give a list of one or three numbers")
        if key in result:
            result[key] = tuple(map(float, numbers))
    if type(result.get("mirror", True)) is not bool or not isinstance(result.get("output", ""), str):
        raise _invalid("mirror or output is not valid", "mirror is true or false, output a name")
    if isinstance(template := config.get("template"), str):
        result["template"] = template
    return Preprocessing(**result)


def _find_preset(name: str) -> Preprocessing:
    if name.lower() not in PRESETS:
        remedy = suggest(name, PRESETS) or f"use one of {', '.join(PRESETS)}, or key=value"
        raise _invalid(f"no preset is called '{name}'", remedy)
    return PRESETS[name.lower()]


def _parse_value(key: str, words: list[str]) -> Any:
    keys = [field.name for field in fields(Preprocessing)]
    if key not in keys:
        raise _invalid(f"there is no key '{key}'", suggest(key, keys) or f"use {', '.join(keys)}")
    text = ",".join(words)
    if key in ("mean", "scale"):
        try:
            return tuple(map(float, words))
        except ValueError:
            raise _invalid(f"{key} is '{text}'", "give one number, or three") from None
    if key == "mirror":
        if text.lower() not in ("true", "false", "yes", "no"):
            raise _invalid(f"mirror is '{text}'", "use true or false")
        return text.lower() in ("true", "yes")
    return text.lower() if key in ("channels", "layout") else text


def _is_float(value: object) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < _LARGEST)


def _invalid(reason: str, remedy: str) -> UsageError:
    return UsageError(reason, where="input of the model", remedy=remedy)


def _format(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
