import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from sfplus.artifacts import inputs
from sfplus.artifacts.inputs import InputFile, ModelFolder, PhotoFolder
from sfplus.datasets.pairs import pair_files
from sfplus.errors import DatasetError, WeightsError
from sfplus.images import encode_image
from sfplus.io.files import file_digest, walk_files


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


def test_content_follows_names_and_bytes(photos: Path, tmp_path: Path) -> None:
    before = content(photos, tmp_path)
    assert content(photos, tmp_path) == before
    (photos / "a/1.png").write_bytes((photos / "a/1.png").read_bytes() + b"x")
    changed = content(photos, tmp_path)
    (photos / "a/2.png").rename(photos / "a/3.png")
    assert len({before, changed, content(photos, tmp_path)}) == 3


def test_content_ignores_where_the_folder_lies(photos: Path, tmp_path: Path) -> None:
    before = content(photos, tmp_path)
    photos.rename(tmp_path / "moved")
    assert content(tmp_path / "moved", tmp_path) == before


def test_a_second_look_reads_no_photo(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_CLOCK_TICK_NS", -(10**18))  # the photos of this test are a moment old
    before = content(photos, tmp_path)
    monkeypatch.setattr(inputs, "file_digest", lambda path: pytest.fail(f"{path} was read again"))
    assert content(photos, tmp_path) == before


def test_photos_that_changed_a_moment_ago_are_read_again(photos: Path, tmp_path: Path) -> None:
    """A file can change twice within one tick of its clock, so its stamp alone is not trusted yet."""
    before = content(photos, tmp_path)
    stamp = (photos / "a/1.png").stat()
    data = bytearray((photos / "a/1.png").read_bytes())
    data[-1] ^= 1
    (photos / "a/1.png").write_bytes(data)
    os.utime(photos / "a/1.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert content(photos, tmp_path) != before


def test_a_damaged_index_is_made_anew(photos: Path, tmp_path: Path) -> None:
    before = content(photos, tmp_path)
    for text in ("{", "[1]"):
        (tmp_path / "index.json").write_text(text)
        assert content(photos, tmp_path) == before


def test_a_folder_without_photos_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no photo in this folder"):
        content(tmp_path / "empty", tmp_path)


def test_broken_links_count_by_name(photos: Path, tmp_path: Path) -> None:
    before = content(photos, tmp_path)
    (photos / "a/9.jpg").symlink_to(tmp_path / "gone.jpg")
    assert content(photos, tmp_path) != before


def test_input_file(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_bytes(b"10\t300\n")
    assert InputFile(tmp_path / "pairs.txt").content == hashlib.sha256(b"10\t300\n").hexdigest()
    with pytest.raises(DatasetError, match="nowhere"):
        _ = InputFile(tmp_path / "nowhere").content


def test_files_that_are_read_as_one(tmp_path: Path) -> None:
    """LFW's view 1 is two files: a change of either makes a stage stale."""
    files = pair_files(tmp_path / "pairsDevTest.txt")
    assert [file.name for file in files] == ["pairsDevTest.txt", "pairsDevTrain.txt"]
    seen = set()
    for texts in (("a", "b"), ("b", "a"), ("a", "c")):
        for file, text in zip(files, texts, strict=True):
            file.write_text(text)
        seen.add(InputFile(files[0], files).content)
    assert len(seen) == 3
    files[1].unlink()
    with pytest.raises(DatasetError, match="pairsDevTrain"):
        _ = InputFile(files[0], files).content


def test_model_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no model in this folder"):
        _ = ModelFolder(tmp_path).content
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = ModelFolder(tmp_path).content
    (tmp_path / "config.json").write_bytes(b"{}")
    assert ModelFolder(tmp_path).content != before


def test_walk_is_sorted_and_relative(photos: Path) -> None:
    assert list(walk_files(photos)) == ["a/1.png", "a/2.png", "b/1.png"]
    assert len(file_digest(photos / "a/1.png")) == 64
