"""Sets of labelled pictures as inputs of stages."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import filelock

from sfplus.artifacts.context import RunContext
from sfplus.errors import DatasetError
from sfplus.io.files import digest_json, file_digest, walk_files
from sfplus.recipes.settings.images import ImageDataSettings

if TYPE_CHECKING:
    from sfplus.image_tasks.datasets import Pictures

_TREES = ("train", "test", "val")


@dataclass(frozen=True)
class PictureSet:
    """A set of pictures on disk. What is decoded from a tree of folders is kept in the workspace, by content."""

    settings: ImageDataSettings
    context: RunContext

    @cached_property
    def content(self) -> str:
        """Digest of names and bytes; of `files`, which may be hundreds of GB, of names and sizes.

        Raises:
            DatasetError: it is not there, and may not be or cannot be downloaded.
        """
        root, name = self.settings.folder, self.settings.name
        trees = [tree for tree in _TREES if (root / tree).is_dir()]
        if name == "files":
            return digest_json([[tree, path, (root / tree / path).stat().st_size]
                                for tree in trees for path in walk_files(root / tree)])  # fmt: skip
        if trees:
            return digest_json([[tree, self.context.photo_folder(root / tree).content] for tree in trees])
        if self.settings.download:
            root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(root / ".sfplus.lock") if self.settings.download else nullcontext():
            self._load("train")  # which downloads it, or says what is missing
        kept = [path for path in walk_files(root) if path.rpartition("/")[2].startswith(_FILES[name])]
        return digest_json([[path, file_digest(root / path)] for path in kept])

    @property
    def there(self) -> bool:
        """Whether nothing has to be downloaded."""
        if not self.settings.download:
            return True
        try:
            replace(self, settings=self.settings.model_copy(update={"download": False})).content  # noqa: B018
        except DatasetError:
            return False
        return True

    def describe(self) -> str:
        """Its name and place."""
        return f"{self.settings.name} in {self.settings.folder}"

    def load(self) -> tuple[Pictures, Pictures]:
        """What to train on, of the scarce class only its part, and what to test on."""
        from sfplus.image_tasks.datasets import SmallImages, imbalance

        train: Pictures = self._load("train")
        scarce = self.settings.scarce
        if scarce is not None:
            if not isinstance(train, SmallImages):
                raise DatasetError("only sets in memory can be thinned out", where="data.scarce")
            train = imbalance(train, scarce, self.settings.keep, seed=0)
        return train, self._load("test")

    def _load(self, split: Literal["train", "test"]) -> Pictures:
        from sfplus.image_tasks import datasets as small_images

        settings = self.settings
        if settings.name == "files":
            return small_images.picture_files(settings.folder, split, settings.resize)
        trees = any((settings.folder / tree).is_dir() for tree in _TREES)
        cache = self.context.workspace / "cache" / "pictures" / self.content[:20] if trees else None
        return small_images.load_small_images(
            settings.name, settings.folder, split, download=settings.download, cache=cache
        )


_FILES = {
    "cifar10": ("data_batch", "test_batch", "batches.meta"),
    "cifar100": ("train", "test", "meta"),
    "mnist": ("train-", "t10k-"),
    "folder": ("",),
}
