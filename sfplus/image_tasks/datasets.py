"""Labelled image datasets: CIFAR-10, CIFAR-100, MNIST and folders of images.

A dataset is read in any of three layouts: torchvision's downloads, MNIST's idx files, or `train/<class>/*.png` and
`test/<class>/*.png` (`val` counts as `test`), whose classes are numbered in sorted order as in the originals.
"""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfplus.datasets.identities import assign_labels
from sfplus.errors import DatasetError
from sfplus.image_tasks.idx_files import read_idx
from sfplus.images import list_photos, read_photo
from sfplus.io.cpus import count_cpus
from sfplus.io.extras import import_torchvision
from sfplus.io.files import atomic_file

SetName = Literal["cifar10", "cifar100", "mnist", "folder"]
Split = Literal["train", "test"]
SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val")}

_MISSING = "put {name} there as idx files, as torchvision's download or as folders of images, or allow the download"
_IDX = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}  # fmt: skip


class ImageDataset(Protocol):
    """Labelled images for training or testing."""

    @property
    def labels(self) -> Tensor:
        """Labels, int64 (N,) on the host."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, by label."""

    def batch(self, indices: np.ndarray) -> Tensor:
        """Return the images at indices (B,), as uint8 (B, H, W, C)."""


@dataclass(frozen=True)
class SmallImages:
    """Images of one size, all in memory.

    Attributes:
        images: uint8 (N, H, W, C), RGB, or grey with C = 1.
        labels: int64 (N,), from 0.
        names: names of the classes, by label.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: np.ndarray) -> Tensor:
        """Return a copy of the images at indices (B,), as uint8 (B, H, W, C)."""
        return self.images.index_select(0, torch.from_numpy(indices))

    def select(self, indices: np.ndarray | Tensor) -> SmallImages:
        """Return the dataset of the images at indices, in their order and with the same classes."""
        chosen = torch.as_tensor(indices)
        return replace(self, images=self.images[chosen], labels=self.labels[chosen])


@dataclass(frozen=True)
class ImageFiles:
    """Images of any size, decoded on access: the shorter side is resized to `size` and the central square kept.

    Attributes:
        paths: files of the images.
        labels: int64 (N,), from 0.
        names: names of the classes, by label.
        size: side of the squares in pixels (256 for ImageNet: AlexNet paper).
    """

    paths: tuple[Path, ...]
    labels: Tensor
    names: tuple[str, ...]
    size: int = 256

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: np.ndarray) -> Tensor:
        """Decode the images at indices (B,), as uint8 RGB (B, size, size, 3).

        Raises:
            PhotoError: If a file cannot be decoded.
        """
        return torch.from_numpy(np.stack(list(_decoders().map(self._decode, indices.tolist()))))

    def _decode(self, index: int) -> np.ndarray:
        image = Image.fromarray(read_photo(self.paths[index]))
        scale = self.size / min(image.size)
        width, height = (max(self.size, round(side * scale)) for side in image.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(resized.crop((left, top, left + self.size, top + self.size)))


@functools.cache
def _decoders() -> ThreadPoolExecutor:
    """Return the threads that decode batches, the same for all batches of this process."""
    return ThreadPoolExecutor(min(16, count_cpus()), "decode")


if hasattr(os, "register_at_fork"):  # a forked process has no threads
    os.register_at_fork(after_in_child=_decoders.cache_clear)


def load_small_images(
    name: SetName, root: Path, split: Split, *, download: bool = False, cache: Path | None = None
) -> SmallImages:
    """Read one split of a dataset into memory.

    Args:
        name: the dataset; `folder` stands for any folders of images of one size.
        root: folder of the dataset; see the module for its layouts.
        split: `train` or `test`.
        download: let torchvision download and verify the dataset if it is missing from `root`.
        cache: folder in which decoded images are kept, one `.npy` per split; the caller uses another folder if the
            images change.

    Raises:
        DatasetError: If the dataset is missing or incomplete, its images differ in size, or its splits differ in their
            classes.
        PhotoError: If an image cannot be decoded.
    """
    root = Path(root)
    if any((root / folder).is_dir() for folder in SPLIT_FOLDERS[split]):
        dataset = _from_folders(root, split, cache)
        return replace(dataset, images=dataset.images[..., :1].contiguous()) if name == "mnist" else dataset
    if name == "mnist":
        return _from_idx(root, split, download)
    if name in ("cifar10", "cifar100"):
        return _from_torchvision(name, root, split, download)
    raise DatasetError("has no images in train/<class> and test/<class>", where=root, remedy="check data.root")


def list_image_files(root: Path, split: Split, size: int = 256) -> ImageFiles:
    """List one split of a dataset of images of any size, such as ImageNet; they are decoded on access.

    Raises:
        DatasetError: If there are no folders of images, fewer than two classes, or the splits differ in their classes.
    """
    paths, labels, names = _list_images(root, split)
    return ImageFiles(tuple(paths), torch.tensor(labels), names, size)


def _list_images(root: Path, split: Split) -> tuple[list[Path], list[int], tuple[str, ...]]:
    folder = _split_folder(root, split)
    names, labels, files = assign_labels(list_photos(folder))
    reference = _split_folder(root, "test" if split == "train" else "train")
    classes = {entry.name for entry in reference.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    if classes != set(names):
        odd = sorted(classes ^ set(names))[0]
        remedy = "train and test need the same classes"
        raise DatasetError(f"the class '{odd}' is in one split only", where=root, remedy=remedy)
    return [folder / file for file in files], labels, tuple(names)


def _split_folder(root: Path, split: str) -> Path:
    for folder in SPLIT_FOLDERS[split]:
        if (root / folder).is_dir():
            return root / folder
    raise DatasetError(f"has no folder {SPLIT_FOLDERS[split][0]}/", where=root, remedy="check data.root")


def _from_folders(root: Path, split: Split, cache: Path | None) -> SmallImages:
    paths, labels, names = _list_images(root, split)
    cached = cache / f"{split}.npy" if cache else None
    if cached and (images := _read_cached(cached, len(labels))) is not None:
        return SmallImages(torch.from_numpy(images), torch.tensor(labels), names)
    with ThreadPoolExecutor(min(4, count_cpus())) as pool:
        decoded = pool.map(read_photo, paths)
        first = next(decoded)
        images = np.empty((len(paths), *first.shape), np.uint8)
        images[0] = first
        for index, image in enumerate(decoded, start=1):
            if image.shape != first.shape:
                height, width, _ = first.shape
                what = f"is {image.shape[0]}x{image.shape[1]} pixels, the first image of the dataset {height}x{width}"
                raise DatasetError(what, where=paths[index], remedy="resize all images to one size")
            images[index] = image
    if cached:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(cached) as part, part.open("wb") as file:
            np.save(file, images)
    return SmallImages(torch.from_numpy(images), torch.tensor(labels), names)


def _read_cached(path: Path, count: int) -> np.ndarray | None:
    """Return the decoded images of a cache, or None if there is none or somebody changed it."""
    try:
        images = np.load(path, allow_pickle=False)
    except Exception:  # NumPy raises errors of many types on damaged files
        return None
    is_images = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4
    return images if is_images and len(images) == count and images.shape[3] == 3 else None


def _from_torchvision(name: str, root: Path, split: Split, download: bool) -> SmallImages:
    torchvision = import_torchvision()
    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    try:
        loaded: Any = kind(root, train=split == "train", download=download)
    except RuntimeError as error:
        remedy = _MISSING.format(name=name) + " (data.download=true)"
        raise DatasetError(f"{name} is missing or damaged", where=root, remedy=remedy) from error
    except OSError as error:
        raise DatasetError(f"{name} cannot be downloaded ({error})", where=root, remedy="try again later") from error
    return SmallImages(torch.from_numpy(loaded.data), torch.tensor(loaded.targets), tuple(loaded.classes))


def _from_idx(root: Path, split: Split, download: bool) -> SmallImages:
    files = [_idx_file(root, name) for name in _IDX[split]]
    if None in files and download:
        try:
            import_torchvision().datasets.MNIST(root, download=True)
        except (RuntimeError, OSError) as error:
            raise DatasetError(f"mnist cannot be downloaded ({error})", where=root, remedy="try again later") from error
        files = [_idx_file(root, name) for name in _IDX[split]]
    if None in files:
        missing = _IDX[split][files.index(None)]
        remedy = _MISSING.format(name="mnist") + " (data.download=true)"
        raise DatasetError(f"has no file {missing}.gz", where=root, remedy=remedy)
    images, labels = (read_idx(file, dimensions) for file, dimensions in zip(files, (3, 1), strict=True) if file)
    if len(images) != len(labels):
        what = f"has {len(images)} images and {len(labels)} labels"
        raise DatasetError(what, where=root, remedy="download the files again")
    names = tuple(str(digit) for digit in range(10))
    if labels.max() >= len(names):
        raise DatasetError(f"has the label {labels.max()}, beyond {names[-1]}", where=root, remedy="give MNIST's files")
    return SmallImages(torch.from_numpy(images).unsqueeze(-1), torch.from_numpy(labels.astype(np.int64)), names)


def _idx_file(root: Path, name: str) -> Path | None:
    folders = (root, root / "MNIST" / "raw")
    return next((p for folder in folders for p in (folder / f"{name}.gz", folder / name) if p.is_file()), None)


def imbalance(images: SmallImages, label: int, keep: float, seed: int) -> SmallImages:
    """Return a dataset with only a random share of one class, at least one image of it.

    In the MHE paper 2 % of the images of digit 0 of MNIST remain.

    Args:
        images: the full dataset.
        label: the class to thin out.
        keep: share of its images to keep.
        seed: seed of the random choice.

    Raises:
        DatasetError: If there is no such class.
    """
    if not 0 <= label < len(images.names):
        what, remedy = f"there is no class {label}", f"use a number from 0 to {len(images.names) - 1}"
        raise DatasetError(what, where="data.scarce", remedy=remedy)
    of_class = np.flatnonzero((images.labels == label).numpy())
    kept = np.random.default_rng((3, seed)).permutation(of_class)[: max(1, round(keep * len(of_class)))]
    unchanged = np.flatnonzero((images.labels != label).numpy())
    return images.select(np.sort(np.concatenate([unchanged, kept])))


def accuracy_by_class(predicted: Tensor, labels: Tensor, classes: int) -> list[float]:
    """Return the accuracy of each class, nan for a class without images."""
    correct = torch.bincount(labels[predicted == labels], minlength=classes)
    return (correct / torch.bincount(labels, minlength=classes)).tolist()
