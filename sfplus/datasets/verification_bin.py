"""Verification sets of insightface (`lfw.bin`, `agedb_30.bin`, ...): pickles of encoded photos and of labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfplus.datasets.pickled_data import PickledArray, read_pickled_data
from sfplus.errors import PairsError
from sfplus.io.console import quantity
from sfplus.io.files import file_size, write_atomically
from sfplus.io.limits import check_limit, limit

BIN_SUFFIX = ".bin"
_SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"BM": ".bmp"}
_REMEDY = (
    "it must be a pickle of (encoded photos, labels) as insightface writes it: photos as bytes or 1-D uint8 arrays in "
    "JPEG or PNG, two for each label; labels true or false"
)


@dataclass(frozen=True, eq=False)
class VerificationBin:
    """A verification set.

    Attributes:
        images: distinct encoded photos (JPEG or PNG), in the order of the file.
        left: (P,) int64, the left photo of each pair, as an index into `images`.
        right: (P,) int64, the right photo.
        same: (P,) bool, True if both photos show the same person.
    """

    images: list[bytes]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    same: NDArray[np.bool_]


def read_bin(path: Path) -> VerificationBin:
    """Read a `.bin` file of insightface without running any code in it.

    The two parts may be lists, tuples or NumPy arrays; a photo may be a byte string or an array of uint8, and a label
    a boolean, 0 or 1 of any type. All protocols of `pickle` are read.

    Raises:
        PairsError: If the file cannot be read, is damaged, is above the limits `pickle_bytes` and `bin_pairs`, or
            contains anything but encoded photos and labels.
    """
    photos, labels = _read_parts(path)
    check_limit("bin_pairs", len(labels), path, error=PairsError)
    if not labels or len(photos) != 2 * len(labels):
        reason = f"contains {quantity(len(photos), 'photo')} and {quantity(len(labels), 'label')}"
        raise PairsError(f"{reason}: there must be two photos per label", where=path, remedy=_REMEDY)
    invalid = next((i for i, label in enumerate(labels) if not isinstance(label, int | float)), None)
    if invalid is not None:
        reason = f"label {invalid} (counted from 0) is {_describe(labels[invalid])}, not a boolean"
        raise PairsError(reason, where=path, remedy=_REMEDY)
    if not set(labels) <= {0, 1}:
        raise PairsError("contains labels other than true and false", where=path, remedy=_REMEDY)
    images, indices = _distinct_photos(photos, path)
    return VerificationBin(images, indices[::2], indices[1::2], np.array(labels, bool))


def _distinct_photos(photos: list[Any], path: Path) -> tuple[list[bytes], NDArray[np.int64]]:
    """Return the distinct photos, and the index of each photo among them."""
    index_of_object: dict[int, int] = {}  # a photo in many pairs is one object, which is read once
    index_of: dict[bytes, int] = {}
    images: list[bytes] = []
    unread = file_size(path)
    indices = np.empty(len(photos), np.int64)
    for i, value in enumerate(photos):
        index = index_of_object.get(id(value))
        if index is None:
            try:
                photo = _encoded_photo(value)
            except ValueError as error:
                raise PairsError(f"photo {i} (counted from 0) {error}", where=path, remedy=_REMEDY) from None
            unread -= len(photo)
            if unread < 0:
                raise PairsError("its photos have more bytes than the file", where=path, remedy=_REMEDY)
            index = index_of.setdefault(hashlib.sha256(photo).digest(), len(images))
            if index == len(images):
                images.append(photo)
            index_of_object[id(value)] = index
        indices[i] = index
    return images, indices


def _read_parts(path: Path) -> tuple[list[Any], list[Any]]:
    """Return the photos and the labels of a file as they were pickled."""
    try:
        check_limit("pickle_bytes", file_size(path), path, error=PairsError)
        value = read_pickled_data(path.read_bytes())
    except MemoryError as error:
        raise PairsError("does not fit into memory", where=path, remedy=_REMEDY) from error
    except OSError as error:
        raise PairsError(f"cannot be read ({error.strerror})", where=path, remedy="check the path") from error
    except ValueError as error:
        raise PairsError(str(error), where=path, remedy=_REMEDY) from error
    parts = _elements(value) or []
    photos, labels = map(_elements, parts) if len(parts) == 2 else (None, None)
    if photos is None or labels is None:
        raise PairsError("does not contain two lists", where=path, remedy=_REMEDY)
    return photos, labels


def _elements(value: object) -> list[Any] | None:
    """Return the elements of a list, a tuple or an array, or None if it has none, or more than a set may have."""
    if isinstance(value, PickledArray):
        value = value.values
    if isinstance(value, np.ndarray):
        if value.ndim == 0 or len(value) > 2 * limit("bin_pairs"):
            return None
        flat = value.reshape(-1) if value.size == len(value) else value
        return flat.tolist() if flat.ndim == 1 else list(flat)
    return list(value) if isinstance(value, list | tuple) else None


def _encoded_photo(value: object) -> bytes:
    """Return an encoded photo as bytes.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(value, PickledArray):
        value = value.values
    if (
        isinstance(value, np.ndarray)
        and value.dtype in (np.uint8, np.int8)
        and value.size == max(value.shape, default=0)
    ):
        size = value.size
    elif isinstance(value, bytes | bytearray):
        size = len(value)
    else:
        raise ValueError(f"is {_describe(value)}, not an encoded photo")
    if not 0 < size <= limit("encoded_image_bytes"):
        raise ValueError(f"has {size:,} bytes")
    return bytes(value)


def _describe(value: object) -> str:
    """Return a few words for what a pickle holds in place of a photo or a label."""
    if isinstance(value, PickledArray):
        value = value.values
    if isinstance(value, np.ndarray):
        pixels = " of pixels" if value.ndim == 3 else ""
        return f"an array {value.dtype} {value.shape}{pixels}"
    words = {
        str: "text",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        bytes: "a byte string",
        type(None): "None",
    }
    return words.get(type(value), f"a {type(value).__name__}")


def image_name(index: int) -> str:
    """Return the name of a photo of a `.bin` file in its pairs: its index among the distinct photos, in five digits."""
    return f"{index:05d}"


def unpack_bin(path: Path, folder: Path) -> int:
    """Write the distinct photos of a `.bin` file into a folder, without decoding them, under the names of its pairs.

    Returns:
        The number of photos.

    Raises:
        PairsError: If `read_bin` raises it, or a photo is not JPEG, PNG or BMP.
    """
    images = read_bin(path).images
    suffixes = [next((end for magic, end in _SUFFIXES.items() if image.startswith(magic)), "") for image in images]
    if "" in suffixes:
        reason = f"photo {suffixes.index('')} (counted from 0) is not JPEG, PNG or BMP"
        raise PairsError(reason, where=path, remedy=_REMEDY)
    folder.mkdir(parents=True, exist_ok=True)
    for i, (image, suffix) in enumerate(zip(images, suffixes, strict=True)):
        write_atomically(folder / f"{image_name(i)}{suffix}", image)
    return len(images)
