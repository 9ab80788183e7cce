"""Inputs of stages: the digest of the content of photo folders, files and models."""

import contextlib
import hashlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sfplus.artifacts import inputs
from sfplus.artifacts.inputs import InputFile, ModelInput, PhotoFolder
from sfplus.datasets.pairs import pair_files
from sfplus.errors import DatasetError, PhotoError, WeightsError
from sfplus.images import encode_image, read_photo
from sfplus.weights.find_model import ModelSource


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode_image(np.full((4, 4, 3), len(name), np.uint8), ".png"))
        os.utime(folder / name, (1, 1))
    return folder


def content(photos: Path, tmp_path: Path) -> str:
    return PhotoFolder(photos, tmp_path / "index.json").content


def test_the_content_depends_on_names_and_bytes(photos: Path, tmp_path: Path) -> None:
    before = content(photos, tmp_path)
    assert content(photos, tmp_path) == before
    (photos / "a/1.png").write_bytes((photos / "a/1.png").read_bytes() + b"x")
    changed = content(photos, tmp_path)
    (photos / "a/2.png").rename(photos / "a/3.png")
    assert len({before, changed, content(photos, tmp_path)}) == 3


def test_the_content_does_not_depend_on_the_path_of_the_folder(photos: Path, tmp_path: Path) -> None:
    before = content(photos, tmp_path)
    photos.rename(tmp_path / "moved")
    assert content(tmp_path / "moved", tmp_path) == before


def test_unchanged_photos_are_not_read_again(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_CLOCK_TICK_NS", -(10**18))  # the photos of this test are new
    before = content(photos, tmp_path)
    monkeypatch.setattr(inputs, "file_digest", lambda path: pytest.fail(f"{path} was read again"))
    assert content(photos, tmp_path) == before


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as server:  # a path has at most 107 bytes
        server.bind(path.name)


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")  # endless


@pytest.mark.parametrize("make", [make_pipe, make_socket, make_device])
def test_only_regular_files_are_opened(photos: Path, tmp_path: Path, make: Callable[[Path], None]) -> None:
    before = content(photos, tmp_path)
    make(photos / "a/special.jpg")
    signal.alarm(20)  # a pipe that is opened waits for ever
    assert content(photos, tmp_path) != before
    with pytest.raises(PhotoError, match="is not a regular file"):
        read_photo(photos / "a/special.jpg")
    signal.alarm(0)


@pytest.mark.parametrize(("name", "changes"), [("a.heic", True), ("A.HIF", True), ("a.jpg", False)])
def test_a_photo_changes_when_the_package_that_decodes_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, changes: bool
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / name).write_bytes(b"anything")
    installed = content(tmp_path / "photos", tmp_path)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert (content(tmp_path / "photos", tmp_path) != installed) == changes


def flip_last_bit(photo: Path) -> None:
    data = bytearray(photo.read_bytes())
    data[-1] ^= 1
    photo.write_bytes(data)


def test_a_changed_photo_with_its_old_modification_time_is_read_again(photos: Path, tmp_path: Path) -> None:
    before = content(photos, tmp_path)
    stamp = (photos / "a/1.png").stat()
    flip_last_bit(photos / "a/1.png")
    os.utime(photos / "a/1.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert content(photos, tmp_path) != before


def test_a_photo_that_changes_within_the_resolution_of_the_clock_is_read_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second change leaves size and times as they are, so the digest of a new photo is not trusted."""
    now = time.time_ns()
    monkeypatch.setattr(inputs, "_stamp", lambda photo: [Path(photo).stat().st_size, now, 0])
    monkeypatch.setattr(inputs, "_CLOCK_TICK_NS", 3600 * 10**9)  # the test takes less than an hour
    before = content(photos, tmp_path)
    flip_last_bit(photos / "a/1.png")
    assert content(photos, tmp_path) != before


def test_a_damaged_index_is_replaced(photos: Path, tmp_path: Path) -> None:
    before = content(photos, tmp_path)
    for text in ("{", "[1]"):
        (tmp_path / "index.json").write_text(text)
        assert content(photos, tmp_path) == before


def test_a_folder_without_photos_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no photo in this folder"):
        content(tmp_path / "empty", tmp_path)


def test_broken_links_contribute_their_name(photos: Path, tmp_path: Path) -> None:
    before = content(photos, tmp_path)
    (photos / "a/9.jpg").symlink_to(tmp_path / "gone.jpg")
    assert content(photos, tmp_path) != before


def test_the_content_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_bytes(b"10\t300\n")
    assert InputFile(tmp_path / "pairs.txt").content == hashlib.sha256(b"10\t300\n").hexdigest()
    with pytest.raises(DatasetError, match="nowhere"):
        _ = InputFile(tmp_path / "nowhere").content


def test_the_content_of_two_files_depends_on_both(tmp_path: Path) -> None:
    """LFW's view 1 consists of two files; a change of either one makes a stage stale."""
    files = pair_files(tmp_path / "pairsDevTest.txt")
    assert [file.name for file in files] == ["pairsDevTest.txt", "pairsDevTrain.txt"]
    contents = set()
    for texts in (("a", "b"), ("b", "a"), ("a", "c")):
        for file, text in zip(files, texts, strict=True):
            file.write_text(text)
        contents.add(InputFile(files[0], files).content)
    assert len(contents) == 3
    files[1].unlink()
    with pytest.raises(DatasetError, match="pairsDevTrain"):
        _ = InputFile(files[0], files).content


def test_the_content_of_a_model_folder_depends_on_all_its_files(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no model in this folder"):
        _ = ModelInput(ModelSource(str(tmp_path))).content
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = ModelInput(ModelSource(str(tmp_path))).content
    (tmp_path / "config.json").write_bytes(b"{}")
    assert ModelInput(ModelSource(str(tmp_path))).content != before


CHANGES: dict[str, tuple[Callable[[Path], object], bool]] = {
    "written": (lambda path: path.write_bytes(b"other"), True),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"x"), True),
    "deleted": (Path.unlink, True),
    "given a link": (lambda path: os.link(path, path.with_suffix(".link")), False),
    "touched": (Path.touch, False),
    "given other rights": (lambda path: path.chmod(0o600), False),
    "nothing": (lambda path: None, False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_photo_that_changes_while_it_is_read_is_noticed(name: str, photos: Path, tmp_path: Path) -> None:
    folder = PhotoFolder(photos, tmp_path / "index.json")
    _ = folder.content
    change, is_noticed = CHANGES[name]
    change(photos / "a/2.png")
    for files in (None, [photos / "a/2.png"]):
        with (
            pytest.raises(DatasetError, match=r"2.png: was changed while it was read; run again")
            if is_noticed
            else (contextlib.nullcontext())
        ):
            folder.check_unchanged(files)
    folder.check_unchanged([photos / "a/1.png"])


@pytest.mark.parametrize("kind", ["file", "model", "model folder"])
def test_other_inputs_that_change_while_they_are_read_are_noticed(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"x")
    source = ModelInput(ModelSource(str(path if kind == "model" else path.parent)))
    value = InputFile(path) if kind == "file" else source
    _ = value.content
    path.chmod(0o600)  # neither rights nor links, such as those of a backup, change a file
    path.parent.joinpath("backup").hardlink_to(path) if kind == "file" else None
    value.check_unchanged()
    path.write_bytes(b"y" * 9)
    with pytest.raises(DatasetError, match=r"model\.safetensors: was changed while it was read"):
        value.check_unchanged()


@pytest.mark.parametrize(
    "data", [b"", bytes(40), b"{", b"[]", b'{"a/1.png": 3}', b'{"a/1.png": [1, 2, 3]}', b"\xff", b"[" * 99999]
)
def test_a_damaged_index_of_photos_is_written_anew(
    data: bytes, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "_CLOCK_TICK_NS", -(10**18))
    before = content(photos, tmp_path)
    (tmp_path / "index.json").write_bytes(data)
    with pytest.warns(UserWarning, match=r"index.json: is damaged \(.*\); all photos are read again"):
        assert content(photos, tmp_path) == before
    assert content(photos, tmp_path) == before
