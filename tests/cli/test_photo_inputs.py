"""The photos that a command is given: a folder, a photo, a list; what is left out or missing is reported."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image
from result_files import read_json_lines, read_parquet
from skimage.data import astronaut
from unusual_photos import jpeg, png_header

from sfplus.io.extras import install_command

Command = Callable[..., object]


def failures(out: Path) -> dict[str, dict[str, str]]:
    return {row["photo"]: row for row in read_json_lines(out / "failures.jsonl")}


@pytest.fixture(scope="module")
def face() -> bytes:
    return jpeg(astronaut()[:256, 100:356])


@pytest.mark.parametrize("stdin", [False, True])
def test_photos_of_a_list_are_aligned(
    drawn: Path, tmp_path: Path, sfplus: Command, monkeypatch: pytest.MonkeyPatch, stdin: bool
) -> None:
    listed = sorted(drawn.glob("*/*.jpg"))[1:5]
    inside = tmp_path / "out" / listed[0].parent.name / listed[0].name  # a crop of an earlier call, as `find` lists it
    text = "".join(f"{path}\n" for path in [*listed, listed[0], inside])
    (tmp_path / "list.txt").write_text(text)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    for again in (False, True):
        answer = sfplus("align", "-" if stdin else tmp_path / "list.txt", tmp_path / "out")
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert answer.code == 0 and "4 crops" in answer.out and answer.err.count("fresh") == 2 * again
    crops = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").glob("*/*.jpg")}
    assert crops == {path.relative_to(drawn).as_posix() for path in listed}


def test_unusual_names_in_a_list_are_aligned(drawn: Path, tmp_path: Path, sfplus: Command) -> None:
    """Names with a leading dot, and with characters that str.splitlines treats as the end of a line."""
    photo = next(drawn.glob("*/*.jpg"))
    names = [".kept/.1.jpg", "a\x85b.jpg", "c\u2028d.jpg"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, tmp_path / "in" / name)
    (tmp_path / "list").write_text("".join(f"{tmp_path / 'in' / name}\n" for name in names))
    answer = sfplus("align", tmp_path / "list", tmp_path / "out")
    assert answer.code == 0 and "3 crops" in answer.out
    assert all((tmp_path / "out" / name).is_file() for name in ["_kept/_1.jpg", *names[1:]])


def test_listed_photos_with_the_same_crop_are_refused(tmp_path: Path, sfplus: Command) -> None:
    for name in (".a", "_a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    (tmp_path / "list").write_text("".join(f"{tmp_path / name}/1.jpg\n" for name in (".a", "_a")))
    answer = sfplus("align", tmp_path / "list", tmp_path / "out")
    assert answer.code == 2 and f"_a/1.jpg: would give the same crop as {tmp_path / '.a/1.jpg'}" in answer.err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "names no photo"),
        (b"\n \r\n# comment\n", "names no photo"),
        (b"What is this?\nA text\nthat mentions\na.jpg.\nb.jpg\n", "names no photo, its first line is 'What is this?'"),
        (b"\x89PNG\r\n\x1a\n\0\0\xff\xfe" * 9, "names no photo"),
        (b"film.mov\nnotes.txt\n", "names no photo: 1 video is left out, the first is"),
        (b"/tmp\n", "names no photo: 1 folder is left out"),
    ],
)
def test_lists_without_photos_are_refused(
    tmp_path: Path, sfplus: Command, monkeypatch: pytest.MonkeyPatch, text: bytes, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("film.mov", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "list").write_bytes(text)
    answer = sfplus("align", tmp_path / "list", tmp_path / "out")
    assert answer.code == 2 and reason in answer.err and not (tmp_path / "out").exists()


def test_missing_photos_and_other_files_of_a_list_are_named(
    tmp_path: Path, sfplus: Command, monkeypatch: pytest.MonkeyPatch, face: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "@eaDir/a.jpg", "._a.jpg", "film.mp4", "notes.txt", "x.dng", "d.jpg/1.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(face)
    (tmp_path / "in/broken.jpg").symlink_to("nowhere")
    names = [path.relative_to(tmp_path).as_posix() for path in sorted((tmp_path / "in").rglob("*"))]
    (tmp_path / "list").write_text("\n".join([*names, "gone.jpg", "/nowhere/at all.png"] * 2))
    answer = sfplus("align", "list", "out")
    assert answer.code == 1 and "2 crops, 0 photos without a face, 3 failed" in answer.out
    crops = {path.relative_to("out").as_posix() for path in Path("out").rglob("*") if path.is_file()}
    assert {name for name in crops if name.endswith(".jpg") and name[0] != "."} == {"a.jpg", "d.jpg/1.jpg"}
    rows = failures(tmp_path / "out")
    assert {name: row["reason"] for name, row in rows.items()} == {
        "gone.jpg": "there is no such file",
        "/nowhere/at all.png": "there is no such file",
        "broken.jpg": "cannot be read: No such file or directory",
    }
    assert all(row["remedy"] and f"{name!r}: {row['reason']}" in answer.err for name, row in rows.items())
    warnings = ("1 video is left out", "2 folders are left out, the first is", "not read are left out (.dng 1, .txt 1)")
    assert all(text in answer.err for text in warnings)
    assert "2 thumbnails and hidden photos are left out (" in answer.err


@pytest.mark.parametrize("command", ["detect", "align"])
def test_a_single_photo_is_a_list_of_one(tmp_path: Path, sfplus: Command, face: bytes, command: str) -> None:
    (tmp_path / "anna.jpg").write_bytes(face)
    answer = sfplus(command, tmp_path / "anna.jpg", tmp_path / "out")
    assert answer.code == 0 and read_parquet(tmp_path / "out/faces.parquet")["photo"] == ["anna.jpg"]
    assert command == "detect" or (tmp_path / "out/anna.jpg").is_file()


def test_a_single_photo_is_embedded(tmp_path: Path, sfplus: Command, face: bytes, untrained_model: Path) -> None:
    (tmp_path / "anna.jpg").write_bytes(face)
    assert sfplus("embed", tmp_path / "anna.jpg", tmp_path / "out", "--model", untrained_model).code == 0
    assert read_parquet(tmp_path / "out/index.parquet")["photo"] == ["anna.jpg"]


SINGLE = {
    "gone.jpg": (2, "does not exist; check the path"),
    "text.jpg": (1, "is not a photo in a known format; convert it to JPEG or PNG"),
    "empty.png": (1, "is empty (0 bytes)"),
    "pipe.jpg": (1, "is not a regular file"),
    "film.mp4": (2, "is a video, not a photo; extract its frames as photos first"),
    "raw.NEF": (2, "has a format that sfplus does not read; convert it to JPEG or PNG"),
    "zero": (2, "is not a regular file; give a folder, a photo or a list of photos"),
}


@pytest.mark.parametrize("command", ["detect", "align", "embed"])
@pytest.mark.parametrize("name", SINGLE)
def test_all_commands_answer_alike_on_a_single_photo(tmp_path: Path, sfplus: Command, command: str, name: str) -> None:
    for photo, content in (("text.jpg", b"text"), ("empty.png", b""), ("film.mp4", b"film"), ("raw.NEF", b"raw")):
        (tmp_path / photo).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero").symlink_to("/dev/zero")
    signal.alarm(60)  # a pipe that is opened waits for ever
    answer = sfplus(command, tmp_path / name, tmp_path / "out")
    signal.alarm(0)
    code, reason = SINGLE[name]
    assert answer.code == code and reason in answer.err
    assert list(failures(tmp_path / "out")) == ([name] if code == 1 else [])


@pytest.mark.parametrize("command", ["detect", "align", "embed"])
def test_when_every_photo_fails_out_lists_them_and_the_console_shows_the_reasons(
    tmp_path: Path, sfplus: Command, command: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/text.jpg").write_text("text")
    (tmp_path / "in/empty.png").touch()
    Image.fromarray(np.zeros((99, 99, 3), np.uint8)).save(tmp_path / "in/black.png")
    os.mkfifo(tmp_path / "in/pipe.jpg")
    for again in (False, True):
        answer = sfplus(command, tmp_path / "in", tmp_path / "out")
        assert answer.code == 1 and "Traceback" not in answer.err and (answer.err.count("fresh") > 0) == again
        assert "interrupted" not in answer.err
        assert list(failures(tmp_path / "out")) == ["black.png", "empty.png", "pipe.jpg", "text.jpg"]
        for name, row in failures(tmp_path / "out").items():
            assert f"{name!r}: {row['reason']}; {row['remedy']}" in answer.err
        if command != "detect":  # whose result are the tables
            last = f"in: no photo gave a crop (1 without a face, 3 failed); see {tmp_path / 'out/failures.jsonl'}"
            assert answer.err.strip().endswith(last)


def test_when_no_crop_can_be_embedded_out_lists_them(tmp_path: Path, sfplus: Command, face: bytes) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/large.jpg").write_bytes(face)
    answer = sfplus("embed", tmp_path / "in", tmp_path / "out", "--crops")
    assert answer.code == 1 and "no crop can be used (is 256x256 (height x width), not 112x96)" in answer.err
    assert list(failures(tmp_path / "out")) == ["large.jpg"]


def test_when_a_list_leads_to_no_photo_out_lists_its_paths(tmp_path: Path, sfplus: Command) -> None:
    (tmp_path / "list").write_text("gone.jpg\n/nowhere/x.png\n")
    answer = sfplus("align", tmp_path / "list", tmp_path / "out")
    assert answer.code == 1 and "list: no path in it leads to a photo; see " in answer.err
    assert "'gone.jpg': there is no such file; check this line of the list" in answer.err
    assert list(failures(tmp_path / "out")) == ["/nowhere/x.png", "gone.jpg"]


def test_a_later_run_without_usable_photos_leaves_no_crops_of_the_earlier_one(
    tmp_path: Path, sfplus: Command, face: bytes
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(face)
    assert sfplus("align", tmp_path / "in", tmp_path / "out").code == 0
    (tmp_path / "in/a.jpg").write_bytes(b"text")
    assert sfplus("align", tmp_path / "in", tmp_path / "out").code == 1
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name != ".sfplus"] == ["failures.jsonl"]
    (tmp_path / "in/a.jpg").write_bytes(face)
    assert sfplus("align", tmp_path / "in", tmp_path / "out").code == 0 and (tmp_path / "out/a.jpg").is_file()


def test_heic_is_read_once_its_package_is_installed(
    tmp_path: Path, sfplus: Command, monkeypatch: pytest.MonkeyPatch, face: bytes
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(face)
    pillow_heif.register_heif_opener()
    Image.open(io.BytesIO(face)).save(tmp_path / "in/IMG_0001.HEIC", "HEIF")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pillow_heif", None)
        answer = sfplus("align", tmp_path / "in", tmp_path / "out")
    line = f"'IMG_0001.HEIC': is a HEIC photo, which needs the package pillow-heif; {install_command('heic')}"
    assert answer.code == 1 and line in answer.err and "1 crop, 0 photos without a face, 1 failed" in answer.out
    answer = sfplus("align", tmp_path / "in", tmp_path / "out")
    assert answer.code == 0 and "2 crops, " in answer.out


def test_files_that_are_left_out_are_counted(tmp_path: Path, sfplus: Command, face: bytes) -> None:
    left_out = ["film.MP4", "@eaDir/a.jpg", "@eaDir/b.jpg", "._a.jpg", "x.dng", "y.dng", "z.psd"]
    for name in ["a.jpg", *left_out, "notes.txt", "x.json", "Thumbs.db", ".DS_Store", "@eaDir/x.txt", "t.parquet"]:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(face)
    answer = sfplus("align", tmp_path / "in", tmp_path / "out")
    assert answer.code == 0 and "1 crop, 0 photos without a face, 0 failed" in answer.out
    warnings = [line for line in answer.err.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        f"warning: 1 video is left out, the first is {tmp_path}/in/film.MP4; extract frames as photos",
        "warning: 3 files of formats that sfplus does not read are left out (.dng 2, .psd 1), the first is "
        f"{tmp_path}/in/x.dng; convert photos to JPEG or PNG",
        "warning: 3 thumbnails and hidden photos are left out (@eaDir 2, ._* 1)",
    ]


RECIPE = """train: {photos: IN, network: sphereface4, width: 0.125, feature_size: 8, head: {m: 1}, max_iter: 1}
verify: {photos: IN, pairs: PAIRS}
"""
COMMANDS = {
    "run": ("run", "RECIPE"), "train": ("train", "RECIPE"), "sweep": ("sweep", "RECIPE", "--seeds", 2),
    "verify": ("verify", "IN", "PAIRS"),
    "calibrate": ("calibrate", "sphereface10-distilled", "IN", "PAIRS", "--out", "m"),
    "pack": ("pack", "IN", "OUT"), "overlap": ("overlap", "IN", "IN"), "detect": ("detect", "IN", "OUT"),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_all_commands_name_the_files_of_a_folder_that_are_left_out(
    command: str, tmp_path: Path, sfplus: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg", "a/film.mp4", "a/x.dng", "@eaDir/a.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text("no photo")
    (tmp_path / "pairs.txt").write_text("a/1.jpg a/2.jpg 1\na/1.jpg b/1.jpg 0\n")
    paths = {"IN": "in", "OUT": "out", "PAIRS": "pairs.txt", "RECIPE": "recipe.yaml"}
    text = RECIPE.replace("IN", str(tmp_path / "in")).replace("PAIRS", str(tmp_path / "pairs.txt"))
    (tmp_path / "recipe.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    answer = sfplus(*(paths.get(str(word), word) for word in COMMANDS[command]))
    assert answer.code == 1
    for part in ("1 video is left out", "sfplus does not read is left out (.dng 1)", "left out (@eaDir 1)"):
        assert answer.err.count(part) == 1, answer.err


def test_warnings_of_image_libraries_are_not_shown(
    tmp_path: Path, sfplus: Command, recwarn: pytest.WarningsRecorder, face: bytes
) -> None:
    (tmp_path / "in").mkdir()
    damaged_exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x0f\x01\x02\0\xff\0\0\0\xff\xff\0\0"
    Image.open(io.BytesIO(face)).save(tmp_path / "in/exif.jpg", exif=damaged_exif)
    Image.open(io.BytesIO(face)).convert("P").save(tmp_path / "in/palette.png", transparency=b"\x80" * 256)
    (tmp_path / "in/large.png").write_bytes(png_header(9_800, 9_800))  # Pillow warns from 89 million pixels on
    assert warnings_of_pillow(tmp_path / "in/exif.jpg") and warnings_of_pillow(tmp_path / "in/large.png")
    recwarn.clear()
    answer = sfplus("align", tmp_path / "in", tmp_path / "out")
    assert "2 crops, 0 photos without a face, 1 failed" in answer.out
    assert [str(warning.message) for warning in recwarn if "PIL" in warning.filename] == []


def warnings_of_pillow(photo: Path) -> list[str]:
    with warnings.catch_warnings(record=True) as caught, contextlib.suppress(Exception):
        warnings.simplefilter("always")
        with Image.open(photo) as image:
            image.getexif()
    return [str(warning.message) for warning in caught if "PIL" in warning.filename]
