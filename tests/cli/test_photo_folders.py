"""align, detect, embed and compare on folders of the user's: good photos, bad photos, second runs."""

import hashlib
import io
import os
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from skimage.data import astronaut

from sfplus.cli import photo_folders as folders
from sfplus.errors import UsageError
from sfplus.images import list_photos, read_photo
from sfplus.io.tables import read_json_lines, read_parquet

Command = Callable[..., object]


def tree(folder: Path) -> dict[str, str]:
    """Digest of each file below a folder, links by their target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path)] = str(path.readlink())
        elif path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() + str(path.stat().st_mtime_ns)
    return found


def jpeg(picture: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def huge_png() -> bytes:
    """A few bytes that promise 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"0")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as people have them: good photos under odd names, odd formats, damaged files."""
    root = tmp_path_factory.mktemp("zoo") / "in"
    face = astronaut()
    pil = Image.fromarray(face)
    good = root / "good"
    good.mkdir(parents=True)
    (good / "plain.jpg").write_bytes(jpeg(face))
    (good / "with space, 'quotes\" & ünï.JPG").write_bytes(jpeg(face))
    (good / "line\nbreak.jpg").write_bytes(jpeg(face))
    pil.convert("L").save(good / "grey.png")
    pil.convert("P").save(good / "palette.gif")
    pil.convert("RGBA").save(good / "alpha.png")
    pil.convert("CMYK").save(good / "cmyk.jpg")
    Image.fromarray(np.asarray(pil.convert("L")).astype(np.uint16) * 257).save(good / "16bit.png")
    pil.save(good / "animated.webp", save_all=True, append_images=[pil.transpose(Image.Transpose.ROTATE_90)])
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees to the right
    pil.transpose(Image.Transpose.ROTATE_90).save(good / "rotated.jpg", exif=exif)
    Image.fromarray(np.hstack([face, face[:, ::-1]])).save(good / "two faces.jpg")
    (good / "same.png").write_bytes((good / "alpha.png").read_bytes())
    (good / "same.jpg").write_bytes((good / "plain.jpg").read_bytes())

    bad = root / "bad"
    bad.mkdir()
    (bad / "empty.jpg").write_bytes(b"")
    (bad / "truncated.jpg").write_bytes(jpeg(face)[:9000])
    (bad / "text.jpg").write_text("this is not a photo")
    (bad / "gigantic.png").write_bytes(huge_png())
    (bad / "broken link.jpg").symlink_to(root / "gone.jpg")
    (root / "loop").symlink_to(root, target_is_directory=True)
    Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save(bad / "no face.png")
    (root / "notes.txt").write_text("not a photo, not touched")
    return root


BAD = {"empty.jpg", "truncated.jpg", "text.jpg", "gigantic.png", "broken link.jpg"}


def test_align_takes_what_people_have(zoo: Path, tmp_path: Path, sfplus: Command) -> None:
    before = tree(zoo)
    answer = sfplus("align", zoo, tmp_path / "out")
    assert answer.code == 1  # some photos could not be read
    assert "1 photos without a face, 5 failed" in answer.out and "Traceback" not in answer.err
    assert tree(zoo) == before, "IN was touched"

    crops = {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*.jpg")
        if ".sfplus" not in path.parts
    }
    photos = {path.name for path in (zoo / "good").iterdir()}
    assert len(crops) == len(photos) == 13
    assert {"good/same.jpg.jpg", "good/same.png.jpg", "good/line\nbreak.jpg", "good/grey.jpg"} <= crops
    assert all(read_photo(tmp_path / "out" / crop).shape == (112, 96, 3) for crop in crops)

    failures = {Path(row["photo"]).name: row for row in read_json_lines(tmp_path / "out" / "failures.jsonl")}
    assert set(failures) == BAD | {"no face.png"} and failures["no face.png"]["reason"] == "no face found"
    assert all(row["reason"] and row["remedy"] for row in failures.values())
    assert all(name in answer.err for name in sorted(BAD)[:4])  # each with its reason, on one line

    faces = read_parquet(tmp_path / "out" / "faces.parquet")
    two = [
        chosen for photo, chosen in zip(faces["photo"], faces["chosen"], strict=True) if photo.endswith("two faces.jpg")
    ]
    assert len(two) == 2 and sum(two) == 1


def test_rotated_grey_and_transparent_photos_give_the_same_crop(zoo: Path, tmp_path: Path, sfplus: Command) -> None:
    for name in ("plain.jpg", "rotated.jpg", "grey.png", "alpha.png", "animated.webp", "16bit.png"):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(zoo / "good" / name, tmp_path / "in")
    assert sfplus("align", tmp_path / "in", tmp_path / "out").code == 0
    plain = read_photo(tmp_path / "out/plain.jpg").mean(2)
    for name in ("rotated", "grey", "alpha", "animated", "16bit"):
        crop = read_photo(tmp_path / "out" / f"{name}.jpg").mean(2)
        assert np.corrcoef(plain.ravel(), crop.ravel())[0, 1] > 0.95, (
            name
        )  # other bits, another place by a fraction of a pixel


def test_a_second_run_is_fresh_and_a_new_photo_is_added(drawn: Path, tmp_path: Path, sfplus: Command) -> None:
    shutil.copytree(drawn, tmp_path / "in")
    assert sfplus("align", tmp_path / "in", tmp_path / "out").code == 0
    before = tree(tmp_path / "out")
    again = sfplus("align", tmp_path / "in", tmp_path / "out")
    assert again.err.count("fresh") == 2 and {
        k: v for k, v in tree(tmp_path / "out").items() if ".sfplus" not in k
    } == {k: v for k, v in before.items() if ".sfplus" not in k}
    shutil.copy(next(drawn.glob("*/*.jpg")), tmp_path / "in" / "new.jpg")
    assert "13 crops" in sfplus("align", tmp_path / "in", tmp_path / "out").out
    assert (tmp_path / "out/new.jpg").exists()


def test_crops_of_photos_that_are_gone_go_too(drawn: Path, tmp_path: Path, sfplus: Command) -> None:
    shutil.copytree(drawn, tmp_path / "in")
    sfplus("align", tmp_path / "in", tmp_path / "out")
    photo = next((tmp_path / "in").glob("*/*.jpg"))
    crop = tmp_path / "out" / photo.relative_to(tmp_path / "in")
    photo.unlink()
    assert crop.exists() and sfplus("align", tmp_path / "in", tmp_path / "out").code == 0 and not crop.exists()
    assert len(list((tmp_path / "out/.sfplus/cache/align").glob("*/manifest.json"))) == 1


def test_a_folder_with_other_files_is_no_out(drawn: Path, tmp_path: Path, sfplus: Command) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    answer = sfplus("align", drawn, tmp_path / "out")
    assert answer.code == 2 and "contains other files; choose a new or an empty folder" in answer.err
    assert list(tree(tmp_path / "out")) == [str(tmp_path / "out/mine.txt")]


def test_a_link_out_of_out_is_not_followed(drawn: Path, tmp_path: Path, sfplus: Command) -> None:
    """OUT/person_000 is a link to the photos themselves: they must not be replaced by their crops."""
    shutil.copytree(drawn, tmp_path / "in")
    before = tree(tmp_path / "in")
    (tmp_path / "out/.sfplus").mkdir(parents=True)
    (tmp_path / "out/person_000").symlink_to(tmp_path / "in/person_000")
    answer = sfplus("align", tmp_path / "in", tmp_path / "out")
    assert answer.code == 2 and "leads out of OUT; remove this link" in answer.err and tree(tmp_path / "in") == before


def test_names_of_crops_never_meet() -> None:
    from sfplus.stages.align import crop_names

    photos = sorted(["a.jpg", "a.jpg.jpg", "a.png", "B.png", "b.jpg", "x.jpg/1.jpg", "x.png", "a-1.jpg", "a-1.jpg"])
    names = dict(zip(photos, crop_names(photos), strict=True))
    folded = {name.casefold() for name in crop_names(photos)}
    assert len(folded) == len(photos) and "x.jpg" not in folded and names["x.jpg/1.jpg"] == "x.jpg/1.jpg"
    assert crop_names(["a/1.png", "a/2.jpeg"]) == ["a/1.jpg", "a/2.jpg"]


def test_a_fault_of_the_disk_is_not_held_against_the_photo(
    drawn: Path, tmp_path: Path, sfplus: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing read stops the stage, which can go on later; it is not recorded as a bad photo for ever."""
    from sfplus.errors import PhotoError

    def broken(path: Path) -> None:
        raise PhotoError("cannot be decoded", where=path) from OSError(5, "Input/output error")

    monkeypatch.setattr("sfplus.stages.detect.read_photo", broken)
    assert sfplus("align", drawn, tmp_path / "out").code == 1
    monkeypatch.undo()
    assert not list((tmp_path / "out").glob(".sfplus/cache/detect/*/manifest.json"))


def test_a_fault_of_the_disk_stops_align_too(
    drawn: Path, tmp_path: Path, sfplus: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sfplus.errors import PhotoError

    def broken(path: Path) -> None:
        raise PhotoError("cannot be decoded", where=path) from OSError(5, "Input/output error")

    assert sfplus("detect", drawn, tmp_path / "out").code == 0  # align goes on from these faces
    monkeypatch.setattr("sfplus.stages.align.read_photo", broken)
    assert sfplus("align", drawn, tmp_path / "out").code == 1
    monkeypatch.undo()
    assert not list((tmp_path / "out").glob(".sfplus/cache/align/*/manifest.json"))
    assert sfplus("align", drawn, tmp_path / "out").code == 0


def test_crops_that_are_aligned_again_are_noticed(drawn: Path, tmp_path: Path, sfplus: Command) -> None:
    sfplus("align", drawn, tmp_path / "crops")
    answer = sfplus("align", tmp_path / "crops", tmp_path / "twice")
    assert "have the size of aligned crops; aligning twice costs accuracy" in answer.err


def test_an_empty_folder(tmp_path: Path, sfplus: Command) -> None:
    (tmp_path / "in").mkdir()
    answer = sfplus("align", tmp_path / "in", tmp_path / "out")
    assert answer.code == 1 and "there is no photo in this folder" in answer.err


def test_only_photos_without_faces(tmp_path: Path, sfplus: Command) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((99, 99, 3), np.uint8)).save(tmp_path / "in/black.png")
    answer = sfplus("align", tmp_path / "in", tmp_path / "out")
    assert answer.code == 1 and "no photo gave a crop" in answer.err and "Traceback" not in answer.err


def test_names_that_are_no_text_are_failures_and_the_batch_goes_on(tmp_path: Path, sfplus: Command) -> None:
    (tmp_path / "in").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/\xff.jpg")).write_bytes(jpeg(astronaut()))
    (tmp_path / "in/good.jpg").write_bytes(jpeg(astronaut()))
    answer = sfplus("align", tmp_path / "in", tmp_path / "out")
    assert answer.code == 1 and "not valid UTF-8; rename the file" in answer.err and "1 crops" in answer.out


def test_a_full_disk_is_one_line(drawn: Path, tmp_path: Path, sfplus: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("sfplus.io.tables.write_atomically", full)
    answer = sfplus("align", drawn, tmp_path / "out")
    assert answer.code == 1 and "free some space" in answer.err and "Traceback" not in answer.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_really_full_and_a_read_only_disk(zoo: Path, tmp_path: Path, sfplus: Command) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", small], check=False, capture_output=True
    ).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        answer = sfplus("align", zoo / "good", small / "out")
        assert answer.code == 1 and "space" in answer.err and "Traceback" not in answer.err
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        answer = sfplus("align", zoo / "good", small / "other")
        assert answer.code == 1 and "ead-only" in answer.err and "Traceback" not in answer.err
        subprocess.run(["mount", "-o", "remount,rw,size=50m", small], check=True)
        assert sfplus("align", zoo / "good", small / "out").code == 0  # goes on once there is room
    finally:
        subprocess.run(["umount", small], check=True)


def test_detect_writes_tables(drawn: Path, tmp_path: Path, sfplus: Command) -> None:
    answer = sfplus("detect", drawn, tmp_path / "out")
    assert answer.code == 0 and "in 12 photos" in answer.out
    faces = read_parquet(tmp_path / "out/faces.parquet")
    assert (
        set(faces) == {"photo", "face", "chosen", "reason", "score", "box", "landmarks"}
        and len(faces["landmarks"][0]) == 10
    )
    assert read_parquet(tmp_path / "out/photos.parquet")["width"] == [250] * 12


def test_all_faces_are_numbered(zoo: Path, tmp_path: Path, sfplus: Command) -> None:
    (tmp_path / "in").mkdir()
    for name in ("two faces.jpg", "plain.jpg"):
        shutil.copy(zoo / "good" / name, tmp_path / "in")
    words = ["--choose", "all", "--format", "png", "--template", "arcface-128x128", "--first-pixel", 1]
    assert sfplus("align", tmp_path / "in", tmp_path / "out", *words).code == 0
    crops = {path.name: read_photo(path) for path in (tmp_path / "out").glob("*.png")}
    assert set(crops) == {"two faces-1.png", "two faces-2.png", "plain.png"}
    assert {crop.shape for crop in crops.values()} == {(128, 128, 3)}
    reasons = read_parquet(tmp_path / "out/faces.parquet")["reason"]
    assert sorted(reasons) == ["face 1 of 2, by score", "face 2 of 2, by score", "only face"]


def test_options_of_align_reach_the_crops(zoo: Path, tmp_path: Path, sfplus: Command) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(zoo / "good/plain.jpg", tmp_path / "in")
    crops = []
    for number, words in enumerate(
        ([], ["--fit", "template"], ["--first-pixel", 0], ["--parity", "matlab"], ["--border", "replicate"])
    ):
        assert sfplus("align", tmp_path / "in", tmp_path / str(number), "--format", "png", *words).code == 0
        crops.append(read_photo(tmp_path / str(number) / "plain.png").astype(int))
    assert all(abs(crop - crops[0]).max() > 0 for crop in crops[1:4]) and np.array_equal(crops[4], crops[0])
    assert np.corrcoef(crops[2][1:, 1:].ravel(), crops[0][:-1, :-1].ravel())[0, 1] > 0.999  # moved by one pixel


def test_a_numbered_face_beside_a_photo_of_that_name(zoo: Path, tmp_path: Path, sfplus: Command) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(zoo / "good/two faces.jpg", tmp_path / "in/a.jpg")
    shutil.copy(zoo / "good/plain.jpg", tmp_path / "in/a-1.jpg")
    assert "3 crops" in sfplus("align", tmp_path / "in", tmp_path / "out", "--choose", "all").out
    assert {path.name for path in (tmp_path / "out").glob("*.jpg")} == {"a-1.jpg.jpg", "a-1.jpg_.jpg", "a-2.jpg"}


@pytest.mark.parametrize("stdin", [False, True])
def test_lists_of_photos(
    drawn: Path, tmp_path: Path, sfplus: Command, monkeypatch: pytest.MonkeyPatch, stdin: bool
) -> None:
    listed = sorted(drawn.glob("*/*.jpg"))[1:5]
    inside = tmp_path / "out" / listed[0].parent.name / listed[0].name  # a crop of an earlier call, as `find` lists it
    text = "".join(f"{path}\n" for path in [*listed, listed[0], inside])
    (tmp_path / "list.txt").write_text(text)
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    for again in (False, True):
        answer = sfplus("align", "-" if stdin else tmp_path / "list.txt", tmp_path / "out")
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert answer.code == 0 and "4 crops" in answer.out and answer.err.count("fresh") == 2 * again
    crops = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").glob("*/*.jpg")}
    assert crops == {path.relative_to(drawn).as_posix() for path in listed}


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "names no photo"), ("a/film.mp4\n", "is a video, not a photo"), ("notes.txt\n", "is not a photo")],
)
def test_lists_without_photos(tmp_path: Path, sfplus: Command, text: str, reason: str) -> None:
    (tmp_path / "list").write_text(text)
    answer = sfplus("align", tmp_path / "list", tmp_path / "out")
    assert answer.code == 2 and reason in answer.err


def test_listed_photos_that_are_gone_are_failures(drawn: Path, tmp_path: Path, sfplus: Command) -> None:
    photo = next(drawn.glob("*/*.jpg"))
    (tmp_path / "list").write_text(f"{photo}\n{photo.parent / 'gone.jpg'}\n")
    answer = sfplus("align", tmp_path / "list", tmp_path / "out")
    assert answer.code == 1 and "1 crops" in answer.out and "cannot be read" in answer.err


def test_listed_names_that_a_folder_would_hide(drawn: Path, tmp_path: Path, sfplus: Command) -> None:
    """With a leading dot, and with characters that str.splitlines takes for the end of a line."""
    photo = next(drawn.glob("*/*.jpg"))
    names = [".kept/.1.jpg", "a\x85b.jpg", "c\u2028d.jpg"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, tmp_path / "in" / name)
    (tmp_path / "list").write_text("".join(f"{tmp_path / 'in' / name}\n" for name in names))
    answer = sfplus("align", tmp_path / "list", tmp_path / "out")
    assert answer.code == 0 and "3 crops" in answer.out
    assert all((tmp_path / "out" / name).is_file() for name in ["_kept/_1.jpg", *names[1:]])


def test_listed_photos_of_one_crop_are_refused(tmp_path: Path, sfplus: Command) -> None:
    (tmp_path / "list").write_text("".join(f"{tmp_path / name}/1.jpg\n" for name in (".a", "_a")))
    answer = sfplus("align", tmp_path / "list", tmp_path / "out")
    assert answer.code == 2 and f"_a/1.jpg: would give the same crop as {tmp_path / '.a/1.jpg'}" in answer.err


def publish(out: Path, *names: str) -> None:
    out.parent.mkdir(exist_ok=True)
    (out / ".sfplus").mkdir(parents=True, exist_ok=True)
    (source := out.with_name("source")).write_text("crop")
    folders.publish(dict.fromkeys(names, source), out)


def test_nothing_outside_of_out_is_made_or_deleted(tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish(out, "a/1.jpg", "b/1.jpg")
    shutil.rmtree(out / "a")
    (out / "a").symlink_to(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/1.jpg").write_text("mine")
    publish(out, "b/1.jpg")
    assert (tmp_path / "mine/1.jpg").read_text() == "mine"
    with pytest.raises(UsageError, match="leads out of OUT"):
        publish(out, "a/new/1.jpg")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["1.jpg"]


def test_a_file_becomes_a_folder_and_a_file_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for names in (["x.jpg", "y"], ["x.jpg/deep/1.jpg", "y"], ["x.jpg", "y"]):
        publish(out, *names)
        files = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
        assert sorted(path.as_posix() for path in files if path.parts[0] != ".sfplus") == names


def test_what_another_run_uses_is_not_dropped(
    drawn: Path, tmp_path: Path, sfplus: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one run is about to copy its crops, another one of the same OUT ends."""
    publish, artefacts = folders.publish, tmp_path / "out/.sfplus/cache/align"

    def late(files: dict[str, Path], out: Path) -> None:
        monkeypatch.setattr("sfplus.cli.align.publish", publish)
        assert sfplus("align", drawn, out, "--format", "png").code == 0
        assert len(list(artefacts.glob("*/manifest.json"))) == 2
        publish(files, out)

    monkeypatch.setattr("sfplus.cli.align.publish", late)
    assert sfplus("align", drawn, tmp_path / "out").code == 0
    assert len(list((tmp_path / "out").glob("*/*.jpg"))) == 12 and not list((tmp_path / "out").glob("*/*.png"))
    assert len(list(artefacts.glob("*/manifest.json"))) == 1  # the last one to end has dropped the other's
    assert not list((tmp_path / "out/.sfplus/users").iterdir())


def test_a_killed_run_holds_nothing(tmp_path: Path) -> None:
    (lock := tmp_path / "1.lock").touch()
    assert not folders._is_held(lock) and not lock.exists()


def test_videos_are_named_and_the_report_is_drawn(zoo: Path, tmp_path: Path, sfplus: Command) -> None:
    (tmp_path / "in").mkdir()
    for name in ("good/two faces.jpg", "good/plain.jpg", "bad/no face.png", "bad/text.jpg"):
        shutil.copy(zoo / name, tmp_path / "in")
    (tmp_path / "in/film.MP4").write_bytes(b"film")
    answer = sfplus("align", tmp_path / "in", tmp_path / "out", "--report", "--workers", 1)
    assert "1 video is left out" in answer.err and "film.MP4" in answer.err
    sheet = read_photo(tmp_path / "out/contact-sheet.png")
    assert "contact-sheet.png" not in list_photos(tmp_path / "out")
    assert sheet.shape[1] == 8 * 118 + 6 and sheet.shape[0] > 3 * 134  # crops, doubtful faces, misses
    crop = read_photo(tmp_path / "out/plain.jpg").astype(int)
    assert abs(sheet[38 : 38 + 112, 14 : 14 + 96] - crop).max() < 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model: enough for the way through."""
    import torch

    from sfplus.networks import create
    from sfplus.weights.model_folder import save_model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    shape = {"network": "sphereface4", "feature_size": 16, "width": 0.125}
    network = create(shape["network"], feature_size=16, width=0.125)
    save_model(folder, network, {**shape, "template": "sphereface-112x96"})
    return folder


def test_embed_equals_the_embedder(drawn: Path, tmp_path: Path, model: Path, sfplus: Command) -> None:
    from sfplus import Embedder

    assert sfplus("embed", drawn, tmp_path / "out", "--model", model).code == 0
    features = load_file(tmp_path / "out/features.safetensors")["features"]
    names = read_parquet(tmp_path / "out/index.parquet")["photo"]
    assert features.shape == (12, 32) and names == sorted(names)
    ours = Embedder(model, "cpu")([drawn / names[0], read_photo(drawn / names[1])])
    cosine = (ours * features[:2]).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(features[:2], axis=1)
    assert cosine.min() > 0.98  # the stage's crops went through JPEG


def test_compare_without_a_threshold_says_what_to_do(drawn: Path, model: Path, sfplus: Command) -> None:
    one, two = sorted(drawn.glob("*/*.jpg"))[:2]
    answer = sfplus("compare", one, two, "--model", model)
    assert answer.code == 2 and "create it with: sfplus export" in answer.err


def test_compare_photos_without_a_face(tmp_path: Path, model: Path, drawn: Path, sfplus: Command) -> None:
    from safetensors.numpy import save_file

    shutil.copytree(model, tmp_path / "model")
    save_file({"mean": np.zeros(32, np.float32)}, tmp_path / "model" / "mean.safetensors")
    config = (tmp_path / "model/config.json").read_text()
    about = '"verification": {"threshold": 0.5, "accuracy": 0.9, "protocol": "sphereface", "pairs": "drawn pairs"}'
    (tmp_path / "model/config.json").write_text(config.replace('"width"', f'{about}, "width"'))
    photo = next(drawn.glob("*/*.jpg"))
    Image.fromarray(np.zeros((99, 99, 3), np.uint8)).save(tmp_path / "black.png")
    answer = sfplus("compare", photo, tmp_path / "black.png", "--model", tmp_path / "model")
    assert answer.code == 1 and "black.png: no face found" in answer.err
    answer = sfplus("compare", photo, photo, "--model", tmp_path / "model", "--save", tmp_path / "crops")
    assert answer.code == 0 and "similarity 1.000: same person" in answer.out
    assert "an accuracy of 90.00 % (sphereface protocol)" in answer.out
    assert sorted(path.name[:2] for path in (tmp_path / "crops").iterdir()) == ["A-", "B-"]
    assert "cannot be read" in sfplus("compare", photo, tmp_path / "gone.jpg", "--model", tmp_path / "model").err


def test_one_photo_is_no_list(tmp_path: Path, sfplus: Command) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(np.zeros((9, 9, 3), np.uint8)))
    answer = sfplus("align", tmp_path / "a.jpg", tmp_path / "out")
    assert answer.code == 2 and "a.jpg: is a photo; give its folder, or a file with one photo per line" in answer.err
