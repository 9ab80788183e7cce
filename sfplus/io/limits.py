"""Limits on what is read from files of others, so that a small file cannot use all memory or run for hours.

Each limit is far above what real files need. An environment variable changes it: `SFPLUS_MAX_PHOTO_PIXELS=200000000`
lets photos of 200 megapixels be read.
"""

from __future__ import annotations

import os
from types import MappingProxyType

from sfplus.errors import SfplusError, UsageError

# name -> (largest value, its unit, where it applies)
LIMITS = MappingProxyType(
    {
        "photo_pixels": (100_000_000, "pixels", "a photo"),
        "recipe_bytes": (64 << 10, "bytes", "a recipe"),
        "recipe_values": (100_000, "values", "a recipe, where an alias counts as all that it repeats"),
        "json_bytes": (256 << 20, "bytes", "a JSON file"),
        "crop_pixels": (1 << 22, "pixels", "a crop of a template"),
        "config_bytes": (16 << 20, "bytes", "the config.json of a model"),
        "weights_bytes": (64 << 30, "bytes", "the weights of a model"),
        "caffe_fields": (200_000, "fields", "a .caffemodel"),
        "prototxt_fields": (50_000, "fields", "a .prototxt"),
        "onnx_fields": (1_000_000, "fields", "an ONNX file"),
        "onnx_bytes": (4 << 30, "bytes", "the memory of an ONNX graph on the CPU"),
        "onnx_seconds": (600, "seconds", "an ONNX graph and a batch of crops"),
        "archive_members": (100_000, "members", "a .pth, TorchScript or .pt2 file"),
        "archive_expansion": (256 << 20, "bytes", "what a .pth, TorchScript or .pt2 file has more when it is unpacked"),
        "pickle_instructions": (10_000_000, "instructions", "a pickle"),
        "tensor_list_bytes": (16 << 20, "bytes", "the names and shapes at the start of a .safetensors file"),
        "table_bytes": (1 << 30, "bytes", "a Parquet table of an artefact, in memory"),
    }
)


def limit(name: str) -> int:
    """Return a limit: the value of the environment variable `SFPLUS_MAX_NAME` if it is set, else its default.

    Args:
        name: a key of `LIMITS`.

    Raises:
        UsageError: If the environment variable is not a positive integer.
    """
    variable = _variable(name)
    text = os.environ.get(variable, "")
    if not text:
        return LIMITS[name][0]
    if not (text.isascii() and text.isdecimal() and len(text) < 19 and int(text)):
        raise UsageError(f"'{text[:40]}' is not a positive integer", where=variable, remedy="correct or unset it")
    return int(text)


def check_limit(
    name: str, amount: int, where: str | os.PathLike[str], *, error: type[SfplusError] = SfplusError
) -> None:
    """Refuse an amount above a limit.

    Args:
        name: a key of `LIMITS`.
        amount: the size of what would be read, in the unit of the limit.
        where: the file concerned.
        error: the class of the exception.

    Raises:
        SfplusError: If the amount is above the limit; the message names the environment variable that raises it.
    """
    if amount > (most := limit(name)):
        raise error(
            f"has {amount:,} {LIMITS[name][1]}, more than the limit of {most:,}",
            where=where,
            remedy=f"check the file; if it is right, set {_variable(name)}={amount}",
        )


def _variable(name: str) -> str:
    return f"SFPLUS_MAX_{name.upper()}"
