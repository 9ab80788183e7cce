"""Photos of all kinds become the same pixels, or one line states what was expected."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from face_photos import FACE, same_bits
from photo_kinds import BGR, BGR_KINDS, CHW, GREY, GREY_KINDS, GREY_RGB, HALF, KINDS, DeviceArray
from PIL import Image

from sfplus.detection import Detector
from sfplus.detection.photos import split_photos, to_pixels
from sfplus.errors import PhotoError, UsageError
from sfplus.images import encode_image, read_photo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    (root / "face.png").write_bytes(encode_image(FACE, ".png"))
    Image.fromarray(GREY).save(root / "grey.png")
    Image.fromarray(GREY.astype(np.uint16) * 257).save(root / "grey16.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the photo is upright after a rotation by 270 degrees
    Image.fromarray(FACE).transpose(Image.Transpose.ROTATE_90).save(root / "rotated.png", exif=exif)
    (root / "empty.jpg").touch()
    return root


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(device="cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_colour_photos_of_all_kinds_have_the_same_pixels(kind: str, folder: Path) -> None:
    pixels = to_pixels(KINDS[kind](folder))
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and type(pixels) is np.ndarray
    np.testing.assert_array_equal(pixels, FACE)


@pytest.mark.parametrize("kind", GREY_KINDS)
def test_grey_photos_of_all_kinds_have_the_same_pixels(kind: str, folder: Path) -> None:
    np.testing.assert_array_equal(to_pixels(GREY_KINDS[kind](folder)), GREY_RGB)


@pytest.mark.parametrize("kind", BGR_KINDS)
def test_bgr_photos_of_all_kinds_have_the_same_pixels(kind: str, folder: Path) -> None:
    np.testing.assert_array_equal(to_pixels(BGR_KINDS[kind](folder), "bgr"), FACE)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_pillow_images_are_converted_as_files_are(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(GREY.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(FACE).convert(mode)
    before = image.copy()
    pixels = to_pixels(image)
    assert pixels.shape == FACE.shape and image == before
    if mode not in ("YCbCr", "HSV"):  # no lossless file has these
        image.save(tmp_path / "image.tif")
        np.testing.assert_array_equal(pixels, read_photo(tmp_path / "image.tif"))


def test_transparency_becomes_white_in_arrays_as_in_files(tmp_path: Path) -> None:
    Image.fromarray(HALF).save(tmp_path / "half.png")
    expected = read_photo(tmp_path / "half.png")
    assert expected.mean() > FACE.mean() + 20
    for photo, channels in ((HALF, "rgb"), (torch.from_numpy(HALF), "rgb"), (HALF[:, :, [2, 1, 0, 3]], "bgr")):
        np.testing.assert_array_equal(to_pixels(photo, channels), expected)  # type: ignore[arg-type]


def test_photos_of_all_kinds_give_identical_boxes(detector: Detector, folder: Path) -> None:
    expected = detector.detect(FACE)
    assert len(expected) == 1
    results = detector.detect(make(folder) for make in KINDS.values())
    assert len(results) == len(KINDS) and all(same_bits(faces, expected) for faces in results)
    grey = detector.detect([make(folder) for make in GREY_KINDS.values()])
    assert len(grey[0]) == 1 and all(same_bits(faces, grey[0]) for faces in grey)
    bgr = detector.detect([make(folder) for make in BGR_KINDS.values()], channels="bgr")
    assert all(same_bits(faces, expected) for faces in bgr)
    np.testing.assert_array_equal(expected.draw(folder / "face.png"), expected.draw(BGR, channels="bgr"))


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "array", "Pillow RGB", "tensor CHW", "tensor HWC"])
def test_one_photo_gives_one_result(kind: str, detector: Detector, folder: Path) -> None:
    assert same_bits(detector.detect(KINDS[kind](folder)), detector.detect([FACE])[0])


PAIR = np.stack([FACE, FACE[:, ::-1]])
BATCHES: dict[str, Any] = {
    "list": list(PAIR),
    "tuple": tuple(PAIR),
    "NHWC": PAIR,
    "NCHW": PAIR.transpose(0, 3, 1, 2),
    "contiguous NCHW": np.ascontiguousarray(PAIR.transpose(0, 3, 1, 2)),
    "NHWC tensor": torch.from_numpy(PAIR),
    "NCHW tensor": torch.from_numpy(PAIR).permute(0, 3, 1, 2),
    "objects": np.frompyfunc(lambda n: Image.fromarray(PAIR[n]), 1, 1)([0, 1]),
    "opaque": np.concatenate([PAIR, np.full((*PAIR.shape[:3], 1), 255, np.uint8)], 3),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_batches_of_all_kinds_give_one_photo_after_the_other(kind: str) -> None:
    photos, single = split_photos(BATCHES[kind])
    assert not single
    np.testing.assert_array_equal(np.stack([to_pixels(photo) for photo in photos]), PAIR)


def test_batches_and_generators_give_lists(detector: Detector, folder: Path) -> None:
    expected = detector.detect(list(PAIR))
    for photos in (PAIR, BATCHES["NCHW tensor"], (photo for photo in PAIR), map(Image.fromarray, PAIR)):
        results = detector.detect(photos)
        assert isinstance(results, list) and all(map(same_bits, results, expected))
    (one,) = detector.detect(PAIR[:1])
    assert same_bits(one, expected[0])
    assert same_bits(detector.detect(sorted(folder.glob("face.p*")))[0], expected[0])
    assert detector.detect(PAIR[:0]) == detector.detect(iter([])) == detector.detect(np.array([], dtype=object)) == []


def test_batches_are_not_copied() -> None:
    """Neither the batch nor, in the usual form, its photos."""
    for batch in (PAIR, BATCHES["NHWC tensor"], BATCHES["NCHW"], BATCHES["NCHW tensor"]):
        memory = batch.numpy() if isinstance(batch, torch.Tensor) else batch
        assert all(np.shares_memory(photo, memory) for photo in split_photos(batch)[0])
    assert to_pixels(FACE) is FACE and np.shares_memory(to_pixels(torch.from_numpy(FACE)), FACE)


def test_a_generator_is_read_as_the_photos_are_used(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs in the modes of the caller, and is never far ahead of the detection."""
    monkeypatch.setattr(detector, "sizes", detector.sizes._replace(pixels=FACE.size // 3))
    taken, used = 0, []
    detect = detector._detect
    monkeypatch.setattr(detector, "_detect", lambda *arguments: (used.append(taken), detect(*arguments))[1])

    def frames() -> Any:
        nonlocal taken
        for _ in range(6):
            taken += 1
            assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
            yield FACE

    assert len(detector.detect(frames())) == 6 and used == [2, 4, 6]


FLOATS = FACE.astype(np.float32) / 255
_SHAPES = "expected uint8 (H, W, 3), (H, W, 4) or (H, W), got "
_KINDS = "expected a path, the bytes of a file, a Pillow image, a NumPy array or a tensor, got "
WRONG: list[tuple[Any, str]] = [
    (None, f"{_KINDS}NoneType; cv2.imread returns None for a file that it cannot read: pass the path"),
    (7, f"{_KINDS}int"),
    ([[1, 2], [3, 4]], f"0: {_KINDS}list"),
    ([3.5], f"0: {_KINDS}float"),
    ({"a.jpg": FACE}, f"{_KINDS}dict"),
    (io.BytesIO(b"x"), f"{_KINDS}BytesIO; pass its contents: photo.read()"),
    ([(FACE, 3)], f"0: {_KINDS}tuple"),
    (FLOATS, f"{_SHAPES}float32 (200, 180, 3); scale it to 0 ... 255, round it and convert it to uint8"),
    (torch.from_numpy(FLOATS), f"{_SHAPES}torch.float32 (200, 180, 3); scale it to 0 ... 255"),
    (CHW.bfloat16(), f"{_SHAPES}torch.bfloat16 (3, 200, 180); scale it"),
    (FACE.astype(np.uint16) * 257, f"{_SHAPES}uint16 (200, 180, 3); divide it by 257 and convert it to uint8"),
    (FACE.astype(int), f"{_SHAPES}int64 (200, 180, 3); convert it to uint8"),
    (FACE > 9, f"{_SHAPES}bool (200, 180, 3); convert it to uint8"),
    (PAIR / 255, f"photos: {_SHAPES}float64 (2, 200, 180, 3); scale it"),
    (FACE[:0], f"{_SHAPES}uint8 (0, 180, 3)"),
    (np.zeros((0, 0), np.uint8), f"{_SHAPES}uint8 (0, 0)"),
    (np.zeros((2, 0, 9, 3), np.uint8), f"photos: {_SHAPES}uint8 (2, 0, 9, 3)"),
    (np.zeros(7, np.uint8), f"{_SHAPES}uint8 (7,)"),
    (np.uint8(7), f"{_SHAPES}uint8 ()"),
    (np.zeros((9, 9, 2), np.uint8), f"{_SHAPES}uint8 (9, 9, 2)"),
    (np.zeros((2, 9, 9, 3, 1), np.uint8), f"{_SHAPES}uint8 (2, 9, 9, 3, 1)"),
    (CHW.numpy(), f"{_SHAPES}uint8 (3, 200, 180); in arrays, channels come last: photo.transpose(1, 2, 0)"),
    (np.stack([GREY] * 5), f"{_SHAPES}uint8 (5, 200, 180); pass several grey photos as a list"),
    (torch.zeros(2, 9, 9, 9, dtype=torch.uint8), f"photos: {_SHAPES}uint8 (2, 9, 9, 9)"),
    (torch.zeros(3, 200, 3, dtype=torch.uint8), "uint8 (3, 200, 3) may have its channels first or last; pass an array"),
    (torch.zeros(2, 3, 9, 4, dtype=torch.uint8), "uint8 (2, 3, 9, 4) may have its channels first or last"),
    (
        DeviceArray(),
        "photos: cannot be converted to a NumPy array (Implicit conversion to a NumPy array is not allowed.)",
    ),
    ([FACE, DeviceArray()], "photo 1: cannot be converted to a NumPy array (Implicit"),
    (torch.zeros(9, 9, 3, dtype=torch.uint8).to_sparse(), "cannot be converted to a NumPy array"),
    (torch.zeros(9, 9, 3, dtype=torch.uint8, device="meta"), "cannot be converted to a NumPy array"),
    ([FACE, PAIR], f"1: {_SHAPES}uint8 (2, 200, 180, 3); pass a batch as the only argument, not in a list"),
    ("gone.jpg", "gone.jpg: cannot be read: No such file or directory; check the path"),
    (["gone.jpg"], "gone.jpg: cannot be read"),
    (Path("gone.jpg"), "gone.jpg: cannot be read"),
    ("", ".: is a folder"),
    ("film.mp4", "film.mp4: is a video"),
    (b"", "photo: is empty (0 bytes)"),
    ([FACE, b"text"], "photo 1: is not a photo in a known format"),
    (Image.new("F", (9, 9)), "photo: has floating-point samples; convert it to 8 or 16 bits"),
    (Image.new("RGB", (0, 9)), "photo: has no pixels (9x0)"),
    (Image.new("L", (20_000, 6_000)), "photo: has too many pixels (6000x20000, the limit is 100,000,000)"),
    (Image.new("I", (9, 9), 70_000), "photo: has 32-bit samples"),
]


@pytest.mark.parametrize(("photos", "line"), WRONG, ids=range(len(WRONG)))
def test_what_is_no_photo_is_refused_in_one_line(photos: Any, line: str, detector: Detector) -> None:
    with pytest.raises(PhotoError) as error:
        detector.detect(photos)
    text = str(error.value)
    assert line in text and "\n" not in text
    assert text.startswith(("photo", *("gone", "film", ".")))


def test_truncated_and_closed_pillow_files_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "short.png").write_bytes((folder / "face.png").read_bytes()[:9000])
    with pytest.raises(PhotoError, match=r"short.png: cannot be decoded, it is damaged or truncated"):
        to_pixels(Image.open(tmp_path / "short.png"), where=str(tmp_path / "short.png"))
    with Image.open(folder / "face.png") as image:
        pass
    with pytest.raises(PhotoError, match=r"photo: cannot be decoded"):
        to_pixels(image)


def test_other_orders_of_channels_are_refused(detector: Detector) -> None:
    for call in (lambda: detector.detect(FACE, channels="BGR"), lambda: detector.detect([], channels="gbr")):  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"channels: '\w+' is not supported; use rgb or bgr"):
            call()


def test_errors_of_the_callers_generator_reach_the_caller(detector: Detector) -> None:
    def frames() -> Any:
        yield FACE
        raise RuntimeError("the camera is gone")

    with pytest.raises(RuntimeError, match="the camera is gone"):
        detector.detect(frames())
