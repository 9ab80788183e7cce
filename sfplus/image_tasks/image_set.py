"""Labelled image datasets as inputs of stages."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from sfplus.artifacts.context import RunContext
from sfplus.artifacts.inputs import digest_or_reason
from sfplus.errors import DatasetError
from sfplus.io.files import digest_json, file_size, walk_files
from sfplus.io.import_path import source_digest
from sfplus.io.locks import file_lock
from sfplus.recipes.settings.images import ImageDataSettings

if TYPE_CHECKING:
    from sfplus.image_tasks.datasets import ImageDataset

_SPLITS = ("train", "test", "val")


@dataclass(frozen=True)
class ImageSet:
    """An image dataset on disk. Images decoded from folders are kept in the workspace, by their content.

    Attributes:
        settings: which dataset, and where.
        context: workspace and console of the run.
    """

    settings: ImageDataSettings
    context: RunContext

    @cached_property
    def content(self) -> str:
        """Digest of names and bytes; for `files`, which may be hundreds of GB, of names and sizes.

        Of the user's own code it covers the source and the files in `data.root`, if that is given.

        Raises:
            DatasetError: If the dataset is missing and may not or cannot be downloaded.
        """
        root, name = self.settings.folder, self.settings.name
        if self.settings.is_code:  # is read, not run
            files = sorted(walk_files(root)) if self.settings.root and root.is_dir() else []
            return digest_json([source_digest(name), [[file, digest_or_reason(root / file)] for file in files]])
        splits = [split for split in _SPLITS if (root / split).is_dir()]
        if name == "files":
            names = [(split, name) for split in splits for name in walk_files(root / split)]
            return digest_json([[split, name, _size_or_reason(root / split / name)] for split, name in names])
        if splits:
            return digest_json([[split, self.context.photo_folder(root / split).content] for split in splits])
        if self.settings.download:
            root.mkdir(parents=True, exist_ok=True)
        with file_lock(root / ".sfplus.lock") if self.settings.download else nullcontext():
            self._load("train")  # downloads the dataset, or names what is missing
        files = [path for path in walk_files(root) if path.rpartition("/")[2].startswith(_FILES[name])]
        return digest_json([[path, digest_or_reason(root / path)] for path in files])

    @property
    def is_available(self) -> bool:
        """True if nothing has to be downloaded."""
        if not self.settings.download or self.settings.is_code:
            return True
        try:
            replace(self, settings=self.settings.model_copy(update={"download": False})).content  # noqa: B018
        except DatasetError:
            return False
        return True

    def describe(self) -> str:
        """Describe the dataset by its name and folder."""
        if self.settings.is_code and not self.settings.root:
            return self.settings.name
        return f"{self.settings.name} in {self.settings.folder}"

    def load(self) -> tuple[ImageDataset, ImageDataset]:
        """Load the training set, with only a part of the scarce class, and the test set."""
        train: ImageDataset = self._load("train")
        scarce = self.settings.scarce
        if scarce is not None:
            if not isinstance(train, self._datasets.SmallImages):
                raise DatasetError("only datasets in memory can be thinned out", where="data.scarce")
            train = self._datasets.imbalance(train, scarce, self.settings.keep, seed=0)
        return train, self._load("test")

    @property
    def _datasets(self) -> ModuleType:
        from sfplus.image_tasks import datasets  # imports torch: start-up time of commands that only plan a run

        return datasets

    def _load(self, split: Literal["train", "test"]) -> ImageDataset:
        datasets, settings = self._datasets, self.settings
        if settings.is_code:
            from sfplus.image_tasks.own_images import load_own_images  # imports torch, as above

            own: ImageDataset = load_own_images(
                settings.name, split, settings.options, root=settings.root, download=settings.download
            )
            return own
        if settings.name == "files":
            images: ImageDataset = datasets.list_image_files(settings.folder, split, settings.resize)
            return images
        folders = any((settings.folder / name).is_dir() for name in _SPLITS)
        cache = self.context.workspace / "cache" / "pictures" / self.content[:20] if folders else None
        loaded: ImageDataset = datasets.load_small_images(
            settings.name, settings.folder, split, download=settings.download, cache=cache
        )
        return loaded


_FILES = {
    "cifar10": ("data_batch", "test_batch", "batches.meta"),
    "cifar100": ("train", "test", "meta"),
    "mnist": ("train-", "t10k-"),
    "folder": ("",),
}
"""Beginnings of the names of the files of each dataset."""


def _size_or_reason(path: Path) -> int | str:
    try:
        return file_size(path)
    except OSError as error:
        return f"unreadable: {error.strerror}"
