"""Labelled images from code of the user's own, `package.module:name`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfplus.errors import DatasetError, first_line
from sfplus.image_tasks.datasets import SmallImages, Split
from sfplus.io.import_path import argument_names, bind_options, import_object


def find_own_images(
    path: str, options: Mapping[str, Any], *, root: Path | None = None, download: bool = False
) -> Callable[[bool], Any]:
    """Import code for images and check its options; return a function that calls it, of whether to train.

    Raises:
        UsageError: If the code does not exist, or does not take these arguments.
    """
    function = import_object(path)
    arguments = {"root": root, "download": download}
    supplied = {name: value for name, value in arguments.items() if name in argument_names(function)}
    bound = bind_options(function, options, path, ("train", *supplied))
    return lambda train: function(train=train, **supplied, **bound)


def load_own_images(
    path: str, split: Split, options: Mapping[str, Any], *, root: Path | None = None, download: bool = False
) -> SmallImages:
    """Read one split of the images of the user's own code into memory; this imports and runs it.

    The function or class is called with `train`, which is True or False, with `root` and `download` if its signature
    has them, as the datasets of torchvision do, and with the options. It returns anything with a length whose items are
    an image and a label from 0: a `torch.utils.data.Dataset`, or a list. An image is of PIL, or uint8 (H, W) or
    (H, W, C). Its attribute `classes` names the classes, if there is one.

    Raises:
        UsageError: If the code does not exist, or does not take these arguments.
        DatasetError: If it fails, or its items are not such images of one size with labels.
    """
    create = find_own_images(path, options, root=root, download=download)
    try:
        dataset = create(split == "train")
        items = list(_read(dataset, path))
        classes = [str(name) for name in getattr(dataset, "classes", ())]
    except DatasetError:
        raise
    except Exception as error:  # code of the user's
        reason = f"failed ({type(error).__name__}: {first_line(error)})"
        raise DatasetError(reason, where=path, remedy="mend this code") from error
    if not items:
        raise DatasetError(f"has no images to {split}", where=path, remedy="return items of an image and a label")
    labels = np.array([label for _, label in items])
    classes = classes or [str(label) for label in range(labels.max() + 1)]
    if labels.max() >= len(classes):
        reason = f"has the label {labels.max()}, and names {len(classes)} classes"
        raise DatasetError(reason, where=path, remedy="name all classes")
    images = torch.from_numpy(np.stack([image for image, _ in items]))
    return SmallImages(images, torch.from_numpy(labels.astype(np.int64)), tuple(classes))


def _read(dataset: Any, path: str) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the images, uint8 (H, W, C), and their labels."""
    first: tuple[int, ...] | None = None
    for index in range(len(dataset)):
        item = dataset[index]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise _wrong(path, index, f"is {type(item).__name__}, not an image and a label")
        image, label = (value.numpy() if isinstance(value, Tensor) else value for value in item)
        if isinstance(image, Image.Image) and image.mode not in ("L", "RGB"):
            image = image.convert("RGB")
        array = np.asarray(image)
        array = array[..., None] if array.ndim == 2 else array
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] not in (1, 3):
            raise _wrong(path, index, f"has an image of {array.dtype} {array.shape}, not uint8 (H, W, 3) or (H, W)")
        if array.shape != (first := first or array.shape):
            raise _wrong(path, index, f"has an image of {array.shape[:2]} pixels, the first one has {first[:2]}")
        if int(label) != label or label < 0:
            raise _wrong(path, index, f"has the label {label}, not a number from 0")
        yield array, int(label)


def _wrong(path: str, index: int, reason: str) -> DatasetError:
    return DatasetError(f"item {index} {reason}", where=path, remedy="mend this code")
