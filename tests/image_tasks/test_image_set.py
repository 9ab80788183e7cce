"""Image datasets as inputs of stages: their content and availability."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from sfplus.artifacts.context import RunContext
from sfplus.errors import DatasetError
from sfplus.image_tasks.datasets import ImageFiles, SmallImages
from sfplus.image_tasks.image_set import ImageSet
from sfplus.io.console import Console
from sfplus.recipes.settings.images import ImageDataSettings


def image_set(workspace: Path, **settings: object) -> ImageSet:
    return ImageSet(ImageDataSettings.model_validate(settings), RunContext(workspace, Console(quiet=True), "cpu"))


@pytest.mark.parametrize("name", ["folder", "files"])
def test_content_depends_on_the_files_and_not_on_the_path(name: str, image_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(image_folder, copy)
    contents = [image_set(tmp_path, name=name, root=root).content for root in (image_folder, copy)]
    assert contents[0] == contents[1]
    next((copy / "train").rglob("*.png")).unlink()
    assert image_set(tmp_path, name=name, root=copy).content != contents[0]


@pytest.mark.parametrize("kind", ["pipe", "device", "broken link"])
@pytest.mark.parametrize(("name", "path"), [
    ("folder", "train/dark/x.png"), ("files", "train/dark/x.png"), ("files", "train/notes"), ("mnist", "train-notes"),
])  # fmt: skip
def test_only_regular_files_are_opened(
    name: str, path: str, kind: str, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "in"
    if name == "mnist":
        root.mkdir()
        monkeypatch.setattr(ImageSet, "_load", lambda *_: None)
    else:
        shutil.copytree(image_folder, root)
    before = image_set(tmp_path, name=name, root=root).content
    if kind == "pipe":
        os.mkfifo(root / path)
    else:
        (root / path).symlink_to("/dev/zero" if kind == "device" else "gone")
    signal.alarm(60)  # a pipe that is opened waits for ever
    after = image_set(tmp_path, name=name, root=root).content
    signal.alarm(0)
    assert after != before


@pytest.mark.parametrize(("name", "kind"), [("folder", SmallImages), ("files", ImageFiles)])
def test_training_and_test_set_are_loaded(name: str, kind: type, image_folder: Path, tmp_path: Path) -> None:
    train, test = image_set(tmp_path, name=name, root=image_folder, resize=32, crop=32).load()
    assert type(train) is type(test) is kind
    assert (len(train.labels), len(test.labels)) == (8, 4) and train.names == ("dark", "light")


def test_scarce_class_needs_a_dataset_in_memory(image_folder: Path, tmp_path: Path) -> None:
    thin, _ = image_set(tmp_path, name="folder", root=image_folder, scarce=1, keep=0.25).load()
    assert thin.labels.bincount().tolist() == [4, 1]
    with pytest.raises(DatasetError, match=r"data\.scarce: only datasets in memory can be thinned out"):
        image_set(tmp_path, name="files", root=image_folder, scarce=1).load()


def test_dataset_that_must_be_downloaded_is_not_available(image_folder: Path, tmp_path: Path) -> None:
    assert image_set(tmp_path, name="folder", root=image_folder, download=True).is_available
    assert not image_set(tmp_path, name="cifar10", root=tmp_path / "missing", download=True).is_available
    assert not (tmp_path / "missing").exists(), "nothing was downloaded"
