"""`sfplus align` on folders of good and bad photos."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from result_files import read_json_lines, read_parquet
from skimage.data import astronaut
from unusual_photos import BAD, jpeg, tree

from sfplus.images import list_photos, read_photo

Command = Callable[..., object]


def test_good_photos_of_any_format_are_aligned_and_bad_ones_listed(
    unusual_photos: Path, tmp_path: Path, sfplus: Command
) -> None:
    before = tree(unusual_photos)
    answer = sfplus("align", unusual_photos, tmp_path / "out")
    assert answer.code == 1  # some photos could not be read
    assert "1 photo without a face, 5 failed" in answer.out and "Traceback" not in answer.err
    assert tree(unusual_photos) == before, "IN was changed"

    crops = {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*.jpg")
        if ".sfplus" not in path.parts
    }
    photos = {path.name for path in (unusual_photos / "good").iterdir()}
    assert len(crops) == len(photos) == 13
    assert {"good/same.jpg.jpg", "good/same.png.jpg", "good/line\nbreak.jpg", "good/grey.jpg"} <= crops
    assert all(read_photo(tmp_path / "out" / crop).shape == (112, 96, 3) for crop in crops)

    failures = {Path(row["photo"]).name: row for row in read_json_lines(tmp_path / "out" / "failures.jsonl")}
    assert set(failures) == BAD | {"no face.png"} and failures["no face.png"]["reason"] == "no face found"
    assert all(row["reason"] and row["remedy"] for row in failures.values())
    assert all(name in answer.err for name in sorted(BAD)[:4])  # each with its reason, on one line

    faces = read_parquet(tmp_path / "out" / "faces.parquet")
    chosen_faces = [
        chosen for photo, chosen in zip(faces["photo"], faces["chosen"], strict=True) if photo.endswith("two faces.jpg")
    ]
    assert len(chosen_faces) == 2 and sum(chosen_faces) == 1


def test_the_format_of_a_photo_does_not_change_its_crop(unusual_photos: Path, tmp_path: Path, sfplus: Command) -> None:
    for name in ("plain.jpg", "rotated.jpg", "grey.png", "alpha.png", "animated.webp", "16bit.png"):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(unusual_photos / "good" / name, tmp_path / "in")
    assert sfplus("align", tmp_path / "in", tmp_path / "out").code == 0
    plain = read_photo(tmp_path / "out/plain.jpg").mean(2)
    for name in ("rotated", "grey", "alpha", "animated", "16bit"):
        crop = read_photo(tmp_path / "out" / f"{name}.jpg").mean(2)
        assert np.corrcoef(plain.ravel(), crop.ravel())[0, 1] > 0.95, (
            name
        )  # the pixels differ, and the position by a fraction of a pixel


def test_a_second_run_is_fresh_and_a_new_photo_is_added(drawn: Path, tmp_path: Path, sfplus: Command) -> None:
    shutil.copytree(drawn, tmp_path / "in")
    assert sfplus("align", tmp_path / "in", tmp_path / "out").code == 0
    before = tree(tmp_path / "out")
    again = sfplus("align", tmp_path / "in", tmp_path / "out")
    assert again.err.count("fresh") == 2 and {
        path: digest for path, digest in tree(tmp_path / "out").items() if ".sfplus" not in path
    } == {path: digest for path, digest in before.items() if ".sfplus" not in path}
    shutil.copy(next(drawn.glob("*/*.jpg")), tmp_path / "in" / "new.jpg")
    assert "13 crops" in sfplus("align", tmp_path / "in", tmp_path / "out").out
    assert (tmp_path / "out/new.jpg").exists()


def test_crops_of_deleted_photos_are_deleted(drawn: Path, tmp_path: Path, sfplus: Command) -> None:
    shutil.copytree(drawn, tmp_path / "in")
    sfplus("align", tmp_path / "in", tmp_path / "out")
    photo = next((tmp_path / "in").glob("*/*.jpg"))
    crop = tmp_path / "out" / photo.relative_to(tmp_path / "in")
    photo.unlink()
    assert crop.exists() and sfplus("align", tmp_path / "in", tmp_path / "out").code == 0 and not crop.exists()
    assert len(list((tmp_path / "out/.sfplus/cache/align").glob("*/manifest.json"))) == 1


@pytest.mark.slow
def test_aligning_crops_again_gives_a_warning(drawn: Path, tmp_path: Path, sfplus: Command) -> None:
    sfplus("align", drawn, tmp_path / "crops")
    answer = sfplus("align", tmp_path / "crops", tmp_path / "twice")
    assert "have the size of aligned crops; aligning twice costs accuracy" in answer.err


def test_an_empty_folder_is_an_error(tmp_path: Path, sfplus: Command) -> None:
    (tmp_path / "in").mkdir()
    answer = sfplus("align", tmp_path / "in", tmp_path / "out")
    assert answer.code == 2 and "there is no photo in this folder" in answer.err


def test_a_folder_without_faces_is_an_error(tmp_path: Path, sfplus: Command) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((99, 99, 3), np.uint8)).save(tmp_path / "in/black.png")
    answer = sfplus("align", tmp_path / "in", tmp_path / "out")
    assert answer.code == 1 and "no photo gave a crop" in answer.err and "Traceback" not in answer.err


def test_photos_with_names_that_are_not_utf_8_are_skipped(tmp_path: Path, sfplus: Command) -> None:
    (tmp_path / "in").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/\xff.jpg")).write_bytes(jpeg(astronaut()))
    (tmp_path / "in/good.jpg").write_bytes(jpeg(astronaut()))
    answer = sfplus("align", tmp_path / "in", tmp_path / "out")
    assert answer.code == 1 and "not valid UTF-8; rename the file" in answer.err and "1 crop, " in answer.out


@pytest.mark.parametrize("command", ["align", "embed"])
def test_a_name_that_is_not_utf_8_is_skipped_if_the_content_is_known(
    command: str, tmp_path: Path, sfplus: Command
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/good.jpg").write_bytes(jpeg(astronaut()[:112, :96] if command == "embed" else astronaut()))
    words = [command, tmp_path / "in", tmp_path / "out", *["--crops"] * (command == "embed")]
    assert sfplus(*words).code == 0
    Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/\xff.jpg")).write_bytes((tmp_path / "in/good.jpg").read_bytes())
    answer = sfplus(*words)
    assert answer.code == 1 and "not valid UTF-8; rename the file" in answer.err, answer.err


def test_a_simulated_full_disk_is_reported_in_one_line(
    drawn: Path, tmp_path: Path, sfplus: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("sfplus.io.tables.write_atomically", full)
    answer = sfplus("align", drawn, tmp_path / "out")
    assert answer.code == 1 and "free some space" in answer.err and "Traceback" not in answer.err


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_and_a_read_only_disk_are_reported_in_one_line(
    unusual_photos: Path, tmp_path: Path, sfplus: Command
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", small], check=False, capture_output=True
    ).returncode:
        pytest.skip("a disk cannot be mounted")
    try:
        answer = sfplus("align", unusual_photos / "good", small / "out")
        assert answer.code == 1 and "space" in answer.err and "Traceback" not in answer.err
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        answer = sfplus("align", unusual_photos / "good", small / "second")
        assert answer.code == 1 and "ead-only" in answer.err and "Traceback" not in answer.err
        subprocess.run(["mount", "-o", "remount,rw,size=50m", small], check=True)
        assert sfplus("align", unusual_photos / "good", small / "out").code == 0  # continues once there is space
    finally:
        subprocess.run(["umount", small], check=True)


def test_crops_of_all_faces_are_numbered(unusual_photos: Path, tmp_path: Path, sfplus: Command) -> None:
    (tmp_path / "in").mkdir()
    for name in ("two faces.jpg", "plain.jpg"):
        shutil.copy(unusual_photos / "good" / name, tmp_path / "in")
    words = ["--choose", "all", "--format", "png", "--template", "arcface-128x128", "--first-pixel", 1]
    assert sfplus("align", tmp_path / "in", tmp_path / "out", *words).code == 0
    crops = {path.name: read_photo(path) for path in (tmp_path / "out").glob("*.png")}
    assert set(crops) == {"two faces-1.png", "two faces-2.png", "plain.png"}
    assert {crop.shape for crop in crops.values()} == {(128, 128, 3)}
    one_face = sfplus("align", tmp_path / "in", tmp_path / "one")
    assert "2 crops, 0 photos without a face, 0 failed" in one_face.out
    assert "1 more face in 1 photo was left out; --choose all cuts out every face" in one_face.err
    assert "more face" not in sfplus("align", tmp_path / "in", tmp_path / "out", *words).err
    reasons = read_parquet(tmp_path / "out/faces.parquet")["reason"]
    assert sorted(reasons) == ["face 1 of 2, by score", "face 2 of 2, by score", "only face"]


def test_options_of_align_change_the_crops(unusual_photos: Path, tmp_path: Path, sfplus: Command) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(unusual_photos / "good/plain.jpg", tmp_path / "in")
    crops = []
    for number, words in enumerate(
        ([], ["--fit", "template"], ["--first-pixel", 0], ["--parity", "matlab"], ["--border", "replicate"])
    ):
        assert sfplus("align", tmp_path / "in", tmp_path / str(number), "--format", "png", *words).code == 0
        crops.append(read_photo(tmp_path / str(number) / "plain.png").astype(int))
    assert all(abs(crop - crops[0]).max() > 0 for crop in crops[1:4]) and np.array_equal(crops[4], crops[0])
    assert np.corrcoef(crops[2][1:, 1:].ravel(), crops[0][:-1, :-1].ravel())[0, 1] > 0.999  # moved by one pixel


def test_a_numbered_crop_and_a_photo_with_its_name_get_different_names(
    unusual_photos: Path, tmp_path: Path, sfplus: Command
) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(unusual_photos / "good/two faces.jpg", tmp_path / "in/a.jpg")
    shutil.copy(unusual_photos / "good/plain.jpg", tmp_path / "in/a-1.jpg")
    assert "3 crops" in sfplus("align", tmp_path / "in", tmp_path / "out", "--choose", "all").out
    assert {path.name for path in (tmp_path / "out").glob("*.jpg")} == {"a-1.jpg.jpg", "a-1.jpg_.jpg", "a-2.jpg"}


def test_videos_give_a_warning_and_the_contact_sheet_shows_the_crops(
    unusual_photos: Path, tmp_path: Path, sfplus: Command
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("good/two faces.jpg", "good/plain.jpg", "bad/no face.png", "bad/text.jpg"):
        shutil.copy(unusual_photos / name, tmp_path / "in")
    (tmp_path / "in/film.MP4").write_bytes(b"film")
    answer = sfplus("align", tmp_path / "in", tmp_path / "out", "--report", "--workers", 1)
    assert "1 video is left out" in answer.err and "film.MP4" in answer.err
    sheet = read_photo(tmp_path / "out/contact-sheet.png")
    assert "contact-sheet.png" not in list_photos(tmp_path / "out")
    assert sheet.shape[1] == 8 * 118 + 6 and sheet.shape[0] > 3 * 134  # crops, doubtful faces, misses
    crop = read_photo(tmp_path / "out/plain.jpg").astype(int)
    assert abs(sheet[38 : 38 + 112, 14 : 14 + 96] - crop).max() < 3


@pytest.mark.parametrize("size", [(600, 2), (2, 600), (1, 1)])
def test_the_contact_sheet_shows_photos_of_any_shape(
    unusual_photos: Path, tmp_path: Path, sfplus: Command, size: tuple[int, int]
) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(unusual_photos / "good/plain.jpg", tmp_path / "in")
    Image.new("RGB", size).save(tmp_path / "in/narrow.png")
    answer = sfplus("align", tmp_path / "in", tmp_path / "out", "--report")
    assert answer.code == 0 and read_photo(tmp_path / "out/contact-sheet.png").shape[0] > 3 * 134
