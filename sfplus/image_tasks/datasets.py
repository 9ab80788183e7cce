"""Sets of labelled pictures: CIFAR-10, CIFAR-100, MNIST and trees of folders, in memory as uint8.

A set is read from whatever lies in its root: torchvision's downloads, MNIST's idx files, or `train/<class>/*.png` and
`test/<class>/*.png` (`val` counts as `test`), whose classes are numbered in sorted order as the originals do.
"""

from __future__ import annotations

import gzip
import os
import zlib
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
from sfplus.images import list_photos, read_photo
from sfplus.networks.normalize import normalize_images

SetName = Literal["cifar10", "cifar100", "mnist", "folder"]
Split = Literal["train", "test"]
SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val")}

_IN_ROOT = "put {name} there, as idx files, as torchvision keeps it or as folders of pictures; or allow the download"
_IDX = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}  # fmt: skip


class Pictures(Protocol):
    """What can be trained on."""

    @property
    def labels(self) -> Tensor:
        """int64 (N,), on the host."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, by label."""

    def batch(self, indices: np.ndarray) -> Tensor:
        """The pictures at some indices (B,): uint8 (B, H, W, C)."""


@dataclass(frozen=True)
class SmallImages:
    """Pictures of one size, all in memory.

    Attributes:
        images: uint8 (N, H, W, C), RGB, or grey with C = 1.
        labels: int64 (N,), 0-based.
        names: of the classes, by label.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: np.ndarray) -> Tensor:
        """The pictures at some indices (B,): uint8 (B, H, W, C), a copy."""
        return self.images.index_select(0, torch.from_numpy(indices))

    def select(self, indices: np.ndarray | Tensor) -> SmallImages:
        """A part of the set, or another order, of the same classes."""
        chosen = torch.as_tensor(indices)
        return replace(self, images=self.images[chosen], labels=self.labels[chosen])


@dataclass(frozen=True)
class PictureFiles:
    """Pictures of any size, decoded when they are asked for: shorter side to `size`, then the square in the centre.

    Attributes:
        paths: of each picture.
        labels: int64 (N,), 0-based.
        names: of the classes, by label.
        size: of the squares, pixels (256 for ImageNet: AlexNet paper).
    """

    paths: tuple[Path, ...]
    labels: Tensor
    names: tuple[str, ...]
    size: int = 256

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: np.ndarray) -> Tensor:
        """The pictures at some indices (B,): uint8 RGB (B, size, size, 3).

        Raises:
            PhotoError: a file cannot be decoded.
        """
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            return torch.from_numpy(np.stack(list(pool.map(self._decode, indices.tolist()))))

    def _decode(self, index: int) -> np.ndarray:
        picture = Image.fromarray(read_photo(self.paths[index]))
        scale = self.size / min(picture.size)
        width, height = (max(self.size, round(side * scale)) for side in picture.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        resized = picture.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(resized.crop((left, top, left + self.size, top + self.size)))


def load_small_images(
    name: SetName, root: Path, split: Split, *, download: bool = False, cache: Path | None = None
) -> SmallImages:
    """Read one split of a set into memory.

    Args:
        name: which set; `folder` takes any tree of folders of pictures of one size.
        root: where it lies; see the module.
        split: `train` or `test`.
        download: let torchvision download it into `root` where it is missing; its checksums are torchvision's.
        cache: a folder in which decoded trees of pictures are kept, one `.npy` a split; the caller renews it when the
            pictures change.

    Raises:
        DatasetError: the set is not there or not whole, its pictures differ in size, or the classes of the two splits.
        PhotoError: a picture cannot be decoded.
    """
    root = Path(root)
    if any((root / folder).is_dir() for folder in SPLIT_FOLDERS[split]):
        found = _from_folders(root, split, cache)
        return replace(found, images=found.images[..., :1].contiguous()) if name == "mnist" else found
    if name == "mnist":
        return _from_idx(root, split, download)
    if name in ("cifar10", "cifar100"):
        return _from_torchvision(name, root, split, download)
    raise DatasetError("there is no picture in train/<class> and test/<class>", where=root, remedy="check data.root")


def picture_files(root: Path, split: Split, size: int = 256) -> PictureFiles:
    """A tree of folders of pictures of any size, such as ImageNet, to be decoded as it is used.

    Raises:
        DatasetError: there are no such folders, fewer than two classes, or the classes of the splits differ.
    """
    paths, labels, names = _listed(root, split)
    return PictureFiles(tuple(paths), torch.tensor(labels), names, size)


def _listed(root: Path, split: Split) -> tuple[list[Path], list[int], tuple[str, ...]]:
    folder = _split_folder(root, split)
    names, labels, files = assign_labels(list_photos(folder))
    other = _split_folder(root, "test" if split == "train" else "train")
    there = {entry.name for entry in other.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    if there != set(names):
        odd = sorted(there ^ set(names))[0]
        remedy = "train and test need the same classes"
        raise DatasetError(f"the class '{odd}' is in one split only", where=root, remedy=remedy)
    return [folder / file for file in files], labels, tuple(names)


def _split_folder(root: Path, split: str) -> Path:
    for folder in SPLIT_FOLDERS[split]:
        if (root / folder).is_dir():
            return root / folder
    raise DatasetError(f"there is no folder {SPLIT_FOLDERS[split][0]}/", where=root, remedy="check data.root")


def _from_folders(root: Path, split: Split, cache: Path | None) -> SmallImages:
    paths, labels, names = _listed(root, split)
    kept = cache / f"{split}.npy" if cache else None
    if kept and kept.is_file():
        images = np.load(kept)
        if len(images) == len(labels):
            return SmallImages(torch.from_numpy(images), torch.tensor(labels), names)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        decoded = pool.map(read_photo, paths)
        first = next(decoded)
        images = np.empty((len(paths), *first.shape), np.uint8)
        images[0] = first
        for index, picture in enumerate(decoded, start=1):
            if picture.shape != first.shape:
                height, width, _ = first.shape
                what = f"is {picture.shape[1]} x {picture.shape[0]} pixels, the first of its set {width} x {height}"
                raise DatasetError(what, where=paths[index], remedy="bring all pictures to one size")
            images[index] = picture
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_name(f".{os.getpid()}.{kept.name}.part")
        with part.open("wb") as file:
            np.save(file, images)
        part.replace(kept)
    return SmallImages(torch.from_numpy(images), torch.tensor(labels), names)


def _from_torchvision(name: str, root: Path, split: Split, download: bool) -> SmallImages:
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        loaded: Any = kind(root, train=split == "train", download=download)
    except RuntimeError as error:
        remedy = _IN_ROOT.format(name=name) + " (data.download=true)"
        raise DatasetError(f"{name} is not there, or is damaged", where=root, remedy=remedy) from error
    except OSError as error:
        raise DatasetError(f"{name} cannot be downloaded ({error})", where=root, remedy="try again later") from error
    return SmallImages(torch.from_numpy(loaded.data), torch.tensor(loaded.targets), tuple(loaded.classes))


def _from_idx(root: Path, split: Split, download: bool) -> SmallImages:
    files = [_idx_file(root, name) for name in _IDX[split]]
    if None in files and download:
        from torchvision import datasets

        try:
            datasets.MNIST(root, download=True)
        except (RuntimeError, OSError) as error:
            raise DatasetError(f"mnist cannot be downloaded ({error})", where=root, remedy="try again later") from error
        files = [_idx_file(root, name) for name in _IDX[split]]
    if None in files:
        missing = _IDX[split][files.index(None)]
        remedy = _IN_ROOT.format(name="mnist") + " (data.download=true)"
        raise DatasetError(f"there is no {missing}.gz", where=root, remedy=remedy)
    images, labels = (_read_idx(file, dimensions) for file, dimensions in zip(files, (3, 1), strict=True) if file)
    if len(images) != len(labels):
        what = f"{len(images)} pictures with {len(labels)} labels"
        raise DatasetError(what, where=root, remedy="get the files again")
    names = tuple(str(digit) for digit in range(10))
    return SmallImages(torch.from_numpy(images).unsqueeze(-1), torch.from_numpy(labels.astype(np.int64)), names)


def _idx_file(root: Path, name: str) -> Path | None:
    places = (root, root / "MNIST" / "raw")
    return next((p for place in places for p in (place / f"{name}.gz", place / name) if p.is_file()), None)


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The idx format: two zero bytes, the type (8 is uint8), the number of dimensions, their sizes, the values."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DatasetError(f"cannot be read ({error})", where=path, remedy="get the file again") from error
    start = 4 + 4 * dimensions
    shape = tuple(int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4))
    if data[:4] != bytes((0, 0, 8, dimensions)) or len(data) != start + int(np.prod(shape)):
        raise DatasetError("is no idx file of bytes, or is cut short", where=path, remedy="get the file again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()


def to_network(pictures: Tensor) -> Tensor:
    """What the networks of these sets read: (x - 127.5) / 128 (MHE, architecture.py; SphereNet, spherenet.py).

    Args:
        pictures: uint8 (B, H, W, C).

    Returns:
        float32 (B, C, H, W) in channels_last.
    """
    return normalize_images(pictures)


def imbalance(images: SmallImages, label: int, keep: float, seed: int) -> SmallImages:
    """The set with only a share `keep` of one class, drawn by seed, at least one picture.

    In the MHE paper 2 % of the pictures of digit 0 are left of MNIST.

    Raises:
        DatasetError: there is no such class.
    """
    if not 0 <= label < len(images.names):
        what, remedy = f"there is no class {label}", f"use a number from 0 to {len(images.names) - 1}"
        raise DatasetError(what, where="data.scarce", remedy=remedy)
    of_class = np.flatnonzero((images.labels == label).numpy())
    kept = np.random.default_rng((3, seed)).permutation(of_class)[: max(1, round(keep * len(of_class)))]
    others = np.flatnonzero((images.labels != label).numpy())
    return images.select(np.sort(np.concatenate([others, kept])))


def accuracy_by_class(predicted: Tensor, labels: Tensor, classes: int) -> list[float]:
    """The share of each class that is right, nan where there is none."""
    right = torch.bincount(labels[predicted == labels], minlength=classes)
    return (right / torch.bincount(labels, minlength=classes)).tolist()
