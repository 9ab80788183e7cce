"""Photos in the forms that callers have: paths, Pillow images, arrays, tensors, batches and generators of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from sfplus.errors import PhotoError, UsageError, first_line
from sfplus.images import Inspect, Pixels, convert_image, decode_photo, read_photo

Channels = Literal["rgb", "bgr"]
File = str | os.PathLike[str] | bytes | Image.Image
Array = Pixels | torch.Tensor
Photo = File | Array

_COUNTS = (1, 3, 4)  # of the channels of a photo
_EXPECTED = "expected uint8 (H, W, 3), (H, W, 4) or (H, W)"
_KINDS = "a path, the bytes of a file, a Pillow image, a NumPy array or a tensor"


def read_photos(photos: Photo | Iterable[Photo], channels: Channels = "rgb") -> tuple[Iterator[Pixels], bool]:
    """Return the pixels of photos, which are read one by one, and True if the argument is a single photo.

    Raises:
        PhotoError: If the shape of a batch is not clear; the iterator raises it for a photo that cannot be read.
        UsageError: If the order of channels is unknown.
    """
    check_channels(channels)
    sources, single = split_photos(photos)
    return (to_pixels(photo, channels, name_photo(photo, n, single)) for n, photo in enumerate(sources)), single


def split_photos(photos: Photo | Iterable[Photo]) -> tuple[Iterable[Photo], bool]:
    """Return photos one after the other, and True if the argument is a single photo.

    Args:
        photos: one photo; a batch (N, H, W, C) or (N, C, H, W), whose photos become views; or any iterable of photos.

    Raises:
        PhotoError: If the shape of a batch is not clear.
    """
    source: Any = photos
    if isinstance(source, str | bytes | os.PathLike | Image.Image | Mapping) or hasattr(source, "read"):
        return [source], True
    if not isinstance(source, torch.Tensor) and hasattr(source, "__array__"):
        source = _to_numpy(source, "photos")
    if isinstance(source, np.ndarray) and source.ndim == 1 and source.dtype.kind in "OU":  # of paths or photos
        return source.tolist(), False
    if isinstance(source, np.ndarray | torch.Tensor):
        return (_channels_last(source, "photos", batch=True), False) if source.ndim == 4 else ([source], True)
    return (source, False) if isinstance(source, Iterable) else ([source], True)


def check_channels(channels: str) -> None:
    """Check the name of an order of channels.

    Raises:
        UsageError: If it is neither `rgb` nor `bgr`.
    """
    if channels not in get_args(Channels):
        raise UsageError(f"'{channels}' is not supported", where="channels", remedy="use rgb or bgr")


def name_photo(photo: Photo, index: int, single: bool = False, kind: str = "photo") -> str:
    """Return the name of a photo in messages: its path or, without one, `photo 3`, counted from 0."""
    path = photo if isinstance(photo, str | os.PathLike) else getattr(photo, "filename", "")
    if path and isinstance(path, str | os.PathLike):
        return os.fsdecode(path)
    return kind if single else f"{kind} {index}"


def to_pixels(photo: Photo, channels: Channels = "rgb", where: str = "photo", inspect: Inspect | None = None) -> Pixels:
    """Convert a photo to uint8 RGB (H, W, 3).

    Args:
        photo: a path; the bytes of a file; a Pillow image of any mode, whose EXIF rotation is applied; a uint8 array
            (H, W, C) or (H, W); or a uint8 tensor, also (C, H, W). C is 1 for grey, 3, or 4 with transparency, which
            becomes white, as in files.
        channels: order of the channels of arrays and tensors; `bgr` is that of OpenCV.
        where: the name of the photo in messages.
        inspect: is called before a file or a Pillow image is decoded.

    Returns:
        A contiguous array; the argument itself if it is one.

    Raises:
        PhotoError: If a file cannot be read, or the argument is not a photo.
    """
    if isinstance(photo, str | os.PathLike):
        return read_photo(Path(os.fsdecode(photo)), inspect=inspect)
    if isinstance(photo, bytes):
        return decode_photo(photo, Path(where), inspect=inspect)
    if isinstance(photo, Image.Image):
        return convert_image(photo, Path(where), inspect=inspect)
    array = np.ascontiguousarray(_channels_last(photo, where))
    count = array.shape[2] if array.ndim == 3 else 1
    if count == 1:
        return _recode(array, cv2.COLOR_GRAY2RGB)
    if channels == "bgr":
        array = _recode(array, cv2.COLOR_BGR2RGB if count == 3 else cv2.COLOR_BGRA2RGBA)
    return array if count == 3 else convert_image(Image.fromarray(array), Path(where))


def _recode(array: Pixels, code: int) -> Pixels:
    return np.asarray(cv2.cvtColor(array, code))


def _channels_last(photo: Any, where: str, batch: bool = False) -> Pixels:
    """Return a view of an array or a tensor on the host: (H, W), (H, W, C) or, of a batch, (N, H, W, C)."""
    is_tensor = isinstance(photo, torch.Tensor)
    if not is_tensor and hasattr(photo, "__array__"):
        photo = _to_numpy(photo, where)
    if not isinstance(photo, np.ndarray | torch.Tensor):
        _refuse_kind(photo, where)
    shape = tuple(photo.shape)
    if photo.dtype != (torch.uint8 if is_tensor else np.uint8):
        raise PhotoError(f"{_EXPECTED}, got {photo.dtype} {shape}", where=where, remedy=_conversion(str(photo.dtype)))
    if len(shape) not in ((4,) if batch else (2, 3)) or 0 in shape[-3:]:
        remedy = "pass a batch as the only argument, not in a list" if len(shape) == 4 else ""
        raise PhotoError(f"{_EXPECTED}, got uint8 {shape}", where=where, remedy=remedy)
    array = _to_numpy(photo, where)
    if len(shape) == 2:
        return array
    first, last = shape[-3] in _COUNTS, shape[-1] in _COUNTS
    if last and not (first and is_tensor):  # in arrays, channels come last
        return array
    if first and last:
        remedy = "pass an array, whose channels come last: photo.permute(1, 2, 0).numpy()"
        raise PhotoError(f"uint8 {shape} may have its channels first or last", where=where, remedy=remedy)
    if first and (is_tensor or batch):
        return np.moveaxis(array, -3, -1)
    remedy = "pass several grey photos as a list" if shape[-1] > 8 else ""
    remedy = "in arrays, channels come last: photo.transpose(1, 2, 0)" if first else remedy
    raise PhotoError(f"{_EXPECTED}, got uint8 {shape}", where=where, remedy=remedy)


def _to_numpy(photo: Any, where: str) -> npt.NDArray[Any]:
    """Convert an array of any library."""
    try:
        return np.asarray(photo.detach().cpu() if isinstance(photo, torch.Tensor) else photo)
    except Exception as error:  # libraries raise different classes, for example for a sparse tensor
        reason = f"cannot be converted to a NumPy array ({first_line(error)})"
        raise PhotoError(reason, where=where, remedy="pass a dense array on the host") from error


def _conversion(dtype: str) -> str:
    if "float" in dtype:
        return "scale it to 0 ... 255, round it and convert it to uint8"
    return "divide it by 257 and convert it to uint8" if "uint16" in dtype else "convert it to uint8"


def _refuse_kind(photo: object, where: str) -> NoReturn:
    remedy = ""
    if photo is None:
        remedy = "cv2.imread returns None for a file that it cannot read: pass the path"
    elif hasattr(photo, "read"):
        remedy = "pass its contents: photo.read()"
    raise PhotoError(f"expected {_KINDS}, got {type(photo).__name__}", where=where, remedy=remedy)
