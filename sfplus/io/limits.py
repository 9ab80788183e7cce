"""Limits on what is read from files of others, so that a small file cannot use all memory or run for hours.

Each limit is far above what real files need. An environment variable changes it: `SFPLUS_MAX_PHOTO_PIXELS=200000000`
lets photos of 200 megapixels be read.
"""

from __future__ import annotations

import os
from types import MappingProxyType

from sfplus.errors import SfplusError, UsageError

_SMALL = 64 << 20  # bytes that any compressed data may expand to

# name -> (largest value, its unit, where it applies)
LIMITS = MappingProxyType(
    {
        "photo_pixels": (100_000_000, "pixels", "a photo; fewer of a format that takes more memory than JPEG"),
        "photo_bytes": (256 << 20, "bytes", "a photo in a format that is read as one piece: AVIF, HEIC, WebP"),
        "photo_metadata_bytes": (32 << 20, "bytes of metadata", "a photo"),
        "photo_metadata_items": (1000, "items of metadata", "a photo: segments, chunks, blocks, boxes, comments"),
        "photo_tags": (65_535, "tags", "a photo in TIFF or with EXIF data"),
        "photo_tiles": (100_000, "tiles", "a photo in TIFF"),
        "jpeg_scans": (100, "scans", "a progressive JPEG"),
        "jpeg2000_tiles": (4096, "tiles", "a photo in JPEG 2000"),
        "png_chunks": (200_000, "chunks", "a PNG"),
        "recipe_bytes": (64 << 10, "bytes", "a recipe"),
        "recipe_values": (100_000, "values", "a recipe, where an alias counts as all that it repeats"),
        "json_bytes": (256 << 20, "bytes", "a JSON file"),
        "record_bytes": (16 << 30, "bytes", "the record of the files of an artefact or of a folder of photos"),
        "crop_pixels": (1 << 22, "pixels", "a crop of a template"),
        "config_bytes": (16 << 20, "bytes", "the config.json of a model"),
        "weights_bytes": (64 << 30, "bytes", "the weights of a model"),
        "caffe_numbers": (1 << 28, "numbers", "the weights of a Caffe network"),
        "caffe_blob_numbers": (1 << 25, "numbers", "what a layer of a Caffe network computes of a photo"),
        "caffe_fields": (200_000, "fields", "a .caffemodel"),
        "prototxt_fields": (50_000, "fields", "a .prototxt"),
        "onnx_fields": (1_000_000, "fields", "an ONNX file"),
        "onnx_bytes": (4 << 30, "bytes", "the memory of an ONNX graph on the CPU"),
        "onnx_seconds": (600, "seconds", "an ONNX graph and a batch of crops"),
        "archive_members": (100_000, "members", "a .pth, TorchScript or .pt2 file"),
        "archive_expansion": (
            256 << 20,
            "bytes",
            "how much a .pth, .pt or .pt2 file grows when it is unpacked",
        ),
        "tensor_list_bytes": (4 << 20, "bytes", "the names and shapes at the start of a .safetensors file"),
        "table_bytes": (1 << 30, "bytes", "a Parquet table of an artefact, in memory"),
        "expansion": (30, "times its size", "a compressed file that expands to more than 64 MiB"),
        "people_bytes": (256 << 20, "bytes", "people.csv or corrections.csv"),
        # datasets, verification, image_tasks
        "encoded_image_bytes": (64 << 20, "bytes", "an image in a data set file"),
        "label_bytes": (1 << 20, "bytes", "the label of an image in a tar file"),
        "tar_header_bytes": (16 << 10, "bytes", "the headers of a file in a tar file"),
        "table_columns": (20_000, "columns", "a table"),
        "feature_bytes": (32 << 30, "bytes", "a table or an array of features, when it is read"),
        # the largest list in use, 15.7 million pairs of IJB-C, has 220 MB
        "text_bytes": (1 << 30, "bytes", "a list of pairs, of people or of names"),
        "recordio_index_bytes": (1 << 30, "bytes", "the .idx file of a .rec file"),
        "pickle_bytes": (2 << 30, "bytes", "a .bin file of pairs"),
        "pickle_instructions": (10_000_000, "instructions", "a .bin file of pairs, or a .pth file"),
        "bin_pairs": (1_000_000, "pairs", "a .bin file of pairs"),
        "idx_bytes": (4 << 30, "bytes", "an .idx file of images or labels, when it is read"),
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
    name: str,
    amount: int,
    where: str | os.PathLike[str],
    *,
    error: type[SfplusError] = SfplusError,
    at_least: bool = False,
) -> None:
    """Refuse an amount above a limit.

    Args:
        name: a key of `LIMITS`.
        amount: the size of what would be read, in the unit of the limit.
        where: the file concerned.
        error: the class of the exception.
        at_least: the amount is not known, it was not counted any further.

    Raises:
        SfplusError: If the amount is above the limit; the message names the environment variable that raises it.
    """
    if amount > (most := limit(name)):
        if at_least:
            reason = f"has more {LIMITS[name][1]} than the limit of {most:,}"
            remedy = f"check the file; if it is right, set {_variable(name)} to a higher number"
            raise error(reason, where=where, remedy=remedy)
        raise error(
            f"has {amount:,} {LIMITS[name][1]}, more than the limit of {most:,}",
            where=where,
            remedy=f"check the file; if it is right, set {_variable(name)}={amount}",
        )


def check_expansion(
    expanded: int, stored: int, where: str | os.PathLike[str], *, error: type[SfplusError] = SfplusError
) -> None:
    """Refuse compressed data that grows far more than real data, before it is read.

    Args:
        expanded: the size that it would have in memory, bytes.
        stored: its size in the file, bytes.
        where: the file concerned.
        error: the class of the exception.

    Raises:
        SfplusError: If it expands to more than 64 MiB and more than the limit `expansion` times its size.
    """
    if expanded > max(_SMALL, limit("expansion") * stored):
        ratio = -(-expanded // max(stored, 1))
        reason = f"{stored:,} bytes expand to {expanded:,}, more than {limit('expansion')} times their size"
        raise error(reason, where=where, remedy=f"check the file; if it is right, set {_variable('expansion')}={ratio}")


def _variable(name: str) -> str:
    return f"SFPLUS_MAX_{name.upper()}"
