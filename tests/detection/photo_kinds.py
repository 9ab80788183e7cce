"""One photo in the forms that callers have."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from face_photos import FACE
from PIL import Image
from torchvision.tv_tensors import Image as ImageTensor

GREY = np.array(Image.fromarray(FACE).convert("L"))
GREY_RGB = GREY[:, :, None].repeat(3, 2)
BGR = np.ascontiguousarray(FACE[:, :, ::-1])
CLEAR = np.dstack([FACE, np.full(FACE.shape[:2], 255, np.uint8)])  # opaque
HALF = np.dstack([FACE, np.full(FACE.shape[:2], 128, np.uint8)])
CHW = torch.from_numpy(FACE).permute(2, 0, 1)


class ArrayLike:
    """An array of another library."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return FACE


class DeviceArray:
    """An array on a device, as CuPy refuses to convert it."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.\nUse get()")


class BytesPath:
    """A path of bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> bytes:
        return os.fsencode(self.path)


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.setflags(write=False)
    return array


# Each photo is that of FACE, or of its grey version.
KINDS: dict[str, Callable[[Path], Any]] = {
    "path": lambda folder: folder / "face.png",
    "text": lambda folder: str(folder / "face.png"),
    "numpy text": lambda folder: np.array([str(folder / "face.png")])[0],
    "path of bytes": lambda folder: BytesPath(folder / "face.png"),
    "bytes": lambda folder: (folder / "face.png").read_bytes(),
    "array": lambda _: FACE,
    "other memory order": lambda _: np.asfortranarray(FACE),
    "flipped twice": lambda _: np.ascontiguousarray(FACE[:, ::-1])[:, ::-1],
    "read-only": lambda _: read_only(FACE),
    "opaque RGBA": lambda _: CLEAR,
    "array of another library": lambda _: ArrayLike(),
    "Pillow RGB": lambda _: Image.fromarray(FACE),
    "Pillow file": lambda folder: Image.open(folder / "face.png"),
    "Pillow RGBA": lambda _: Image.fromarray(CLEAR),
    "Pillow with EXIF rotation": lambda folder: Image.open(folder / "rotated.png"),
    "tensor HWC": lambda _: torch.from_numpy(FACE),
    "tensor CHW": lambda _: CHW,
    "contiguous tensor CHW": lambda _: CHW.contiguous(),
    "tensor CHW with transparency": lambda _: torch.from_numpy(CLEAR).permute(2, 0, 1),
    "torchvision tensor": lambda _: ImageTensor(CHW),
}
GREY_KINDS: dict[str, Callable[[Path], Any]] = {
    "path": lambda folder: folder / "grey.png",
    "16-bit path": lambda folder: folder / "grey16.png",
    "array": lambda _: GREY,
    "array with a channel": lambda _: GREY[:, :, None],
    "tensor": lambda _: torch.from_numpy(GREY),
    "tensor with a channel first": lambda _: torch.from_numpy(GREY)[None],
    "tensor with a channel last": lambda _: torch.from_numpy(GREY)[:, :, None],
    "Pillow L": lambda _: Image.fromarray(GREY),
    "Pillow LA": lambda _: Image.fromarray(GREY).convert("LA"),
    "Pillow P": lambda _: Image.fromarray(GREY).convert("P"),
    "Pillow I;16": lambda _: Image.fromarray(GREY.astype(np.uint16) * 257),
    "Pillow I": lambda _: Image.fromarray(GREY.astype(np.int32) * 257),
}
BGR_KINDS: dict[str, Callable[[Path], Any]] = {
    "array": lambda _: BGR,
    "view": lambda _: FACE[:, :, ::-1],
    "opaque BGRA": lambda _: CLEAR[:, :, [2, 1, 0, 3]],
    "tensor CHW": lambda _: CHW.flip(0),
    "path, whose order is known": lambda folder: folder / "face.png",
    "Pillow, whose order is known": lambda _: Image.fromarray(FACE),
}
