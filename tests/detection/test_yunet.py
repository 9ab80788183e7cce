"""YuNet: a network of squares through OpenCV, and the real model on real photos where it is at hand."""

import hashlib
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from square_faces import LANDMARKS, draw_squares, real_yunet, square_network

from sfplus.artifacts.detector_input import DetectorInput
from sfplus.detection import Detector, Faces, TurnedDetector, YuNet
from sfplus.errors import PhotoError, UsageError, WeightsError
from sfplus.images import list_photos, read_photo
from sfplus.weights import zoo


@pytest.fixture
def squares(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The network of squares in place of the model."""
    pytest.importorskip("onnx")
    content = square_network()
    files = {"yunet.onnx": hashlib.sha256(content).hexdigest()}
    entries = {**zoo.zoo(), "yunet": zoo.zoo()["yunet"].model_copy(update={"files": files})}
    monkeypatch.setattr(zoo, "zoo", lambda: entries)
    path = Path(os.environ["SFPLUS_HOME"]) / "yunet" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    yield path


def equal(left: list[Faces], right: list[Faces]) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in zip(left, right, strict=True)
        for name in ("boxes", "scores", "landmarks")
    )


@pytest.mark.parametrize(
    ("shape", "square"),
    [((64, 64), (8, 16, 16)), ((64, 64), (32, 0, 32)), ((50, 90), (64, 16, 16)), ((33, 33), (0, 0, 32))],
)
def test_boxes_and_landmarks_are_in_pixels_of_the_photo(squares, shape, square) -> None:
    left, top, side = square
    square = (left - left % side, top - top % side, side)
    faces = YuNet(min_face=12, device="cpu").detect(draw_squares(*shape, [square]))
    assert len(faces) == 1 and faces.scores[0] == pytest.approx(1, abs=1e-3)
    left, top, side = square
    np.testing.assert_allclose(faces.boxes[0], [left, top, left + side - 1, top + side - 1], atol=1e-3)
    np.testing.assert_allclose(faces.landmarks[0], np.array([left, top]) + LANDMARKS * side, atol=1e-3)


def test_a_large_photo_is_searched_smaller_and_a_large_face_is_found(squares) -> None:
    """At 400 pixels the square of 1,600 / 400 * 32 pixels is one of 32; coordinates are those of the photo."""
    photo = draw_squares(1600, 1600, [(256, 384, 128)])
    faces = YuNet(min_face=40, device="cpu").detect(photo)
    assert len(faces) == 1
    np.testing.assert_allclose(faces.boxes[0], [256, 384, 383, 511], atol=2)
    np.testing.assert_allclose(faces.landmarks[0], [256, 384] + LANDMARKS * 128 + 1.5, atol=1e-3)


def test_the_search_sizes_are_bounded(squares) -> None:
    detector = YuNet(min_face=20, device="cpu")
    sizes = {
        shape: list(detector._search_sizes(*shape)) for shape in [(250, 250), (400, 300), (1280, 10), (4000, 3000)]
    }
    assert sizes[250, 250] == [(250, 250)] and sizes[400, 300] == [(400, 300)]
    assert sizes[1280, 10] == [(1280, 10), (400, 3)]
    assert sizes[4000, 3000] == [(3000, 2250), (400, 300)]  # a face of 20 pixels keeps 15
    assert list(YuNet(min_face=80, device="cpu")._search_sizes(4000, 3000)) == [(1280, 960), (400, 300)]
    for shape in [(30000, 20000), (1, 1), (1, 60000), (60000, 1)]:
        for width, height in detector._search_sizes(*shape):
            assert 1 <= width * height <= 1.001 * 2**23


def test_results_do_not_depend_on_the_batch_the_order_or_the_threads(squares, three_threads) -> None:
    rng = np.random.default_rng(0)
    photos = []
    for _ in range(12):
        height, width = rng.integers(40, 200, 2).tolist()
        squares_in = [(16 * int(rng.integers(0, width // 16)), 0, 16), (0, 32, 8)]
        photos.append(draw_squares(height, width, squares_in))
    detector = YuNet(min_face=6, device="cpu")
    expected = [detector.detect(photo) for photo in photos]
    assert [len(faces) for faces in expected].count(0) < 3
    assert equal(detector.detect(photos), expected) and equal(detector.detect(photos[::-1])[::-1], expected)
    torch.set_num_threads(1)
    assert equal(detector.detect(iter(photos)), expected)
    results: dict[int, list[Faces]] = {}
    threads = [threading.Thread(target=lambda n=n: results.update({n: detector.detect(photos)})) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(equal(faces, expected) for faces in results.values())
    assert equal(pickle.loads(pickle.dumps(detector)).detect(photos), expected)


def test_photos_without_a_face_and_tiny_ones_give_no_face(squares, tmp_path) -> None:
    detector = YuNet(device="cpu")
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    shapes = [(1, 1), (1, 3000), (3000, 1), (3, 2), (64, 64)]
    assert [len(faces) for faces in detector.detect([np.zeros((*shape, 3), np.uint8) for shape in shapes])] == [0] * 5
    assert len(detector.detect(tmp_path / "black.png")) == 0 and detector.detect([]) == []
    with pytest.raises(PhotoError, match="photo 1"):
        detector.detect([np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9, 3))])


def test_small_and_unsure_faces_are_left_out(squares) -> None:
    photo = draw_squares(64, 64, [(0, 0, 16), (32, 32, 32)])
    photo[:32] //= 2  # the upper square scores 0.5
    counts = {(face, score): len(YuNet(face, score, "cpu").detect(photo)) for face in (12, 20) for score in (0.4, 0.7)}
    assert counts == {(12, 0.4): 2, (12, 0.7): 1, (20, 0.4): 1, (20, 0.7): 1}


@pytest.mark.parametrize(("values", "message"), [({"min_face": 0}, "min_face"), ({"min_score": 1.5}, "min_score")])
def test_settings_out_of_range_are_refused(values, message) -> None:
    with pytest.raises(UsageError, match=message):
        YuNet(**values)


def test_a_missing_and_a_changed_model_give_one_line(squares) -> None:
    assert DetectorInput("yunet").content == hashlib.sha256(squares.read_bytes()).hexdigest()
    squares.write_bytes(squares.read_bytes() + b"\0")
    for use in (YuNet, lambda: DetectorInput("yunet").content):
        with pytest.raises(WeightsError, match="its SHA-256 differs; get it again: sfplus models fetch yunet"):
            use()
    squares.unlink()
    with pytest.raises(UsageError, match="yunet: is not on this machine; get it first: sfplus models fetch yunet"):
        YuNet()


def test_a_file_that_opencv_cannot_read_gives_one_line(squares, monkeypatch) -> None:
    monkeypatch.setattr("sfplus.detection.yunet.read_detector", lambda _: b"no graph" * 100)
    with pytest.raises(WeightsError, match="yunet: is damaged"):
        YuNet()


def test_turned_squares_are_found_in_the_coordinates_of_the_photo(squares) -> None:
    upright = draw_squares(64, 96, [(64, 32, 32)])
    detector = TurnedDetector(YuNet(device="cpu"))
    expected = detector.detect(upright)
    for turns in (1, 2, 3):
        turned = np.ascontiguousarray(np.rot90(upright, turns))
        faces = detector.detect(turned)
        assert len(faces) == 1
        patch = faces.boxes[0].round().astype(int)
        assert turned[patch[1] : patch[3] + 1, patch[0] : patch[2] + 1].mean() == pytest.approx(127.5)
        assert faces.scores == pytest.approx(expected.scores)


@pytest.fixture
def real() -> YuNet:
    """The real model; without it the test is skipped."""
    if (path := real_yunet()) is None:
        pytest.skip("no face_detection_yunet_2023mar.onnx in shared/data/yunet; set SFPLUS_YUNET to the file")
    assert zoo.fetch("yunet", path)[1]
    return YuNet(min_face=40, device="cpu")


@pytest.mark.slow
def test_the_real_model_agrees_with_mtcnn_on_lfw(real, shared_data) -> None:
    root = shared_data / "lfw" / "photos"
    photos = [read_photo(root / name) for name in list_photos(root)[::400]]
    reference = Detector(min_face=40, device="cpu").detect(photos)
    found = real.detect(photos)
    errors = []
    for faces, others in zip(found, reference, strict=True):
        assert len(faces)
        eyes = np.linalg.norm(others.landmarks[0, 0] - others.landmarks[0, 1])
        errors.append(np.linalg.norm(faces.landmarks - others.landmarks[0], axis=2).mean(1).min() / eyes)
    assert np.median(errors) < 0.12 and max(errors) < 0.3
    turned = TurnedDetector(real).detect([np.ascontiguousarray(np.rot90(photo, 2)) for photo in photos[:8]])
    for faces, others in zip(turned, reference, strict=False):
        upright = 249 - faces.landmarks
        eyes = np.linalg.norm(others.landmarks[0, 0] - others.landmarks[0, 1])
        assert np.linalg.norm(upright - others.landmarks[0], axis=2).mean(1).min() < 0.3 * eyes
