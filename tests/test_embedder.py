"""Features of photos and crops are equal by all routes, in bounded memory."""

import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from result_files import read_json_lines, read_parquet
from safetensors.numpy import load_file

from sfplus import Embedder, Faces
from sfplus.alignment import align
from sfplus.errors import PhotoError, UsageError
from sfplus.images import read_photo
from sfplus.weights.convert import convert


@pytest.fixture(scope="module")
def embedder(untrained_model: Path) -> Embedder:
    return Embedder(untrained_model, "cpu")


@pytest.fixture(scope="module")
def photos(drawn: Path) -> list[Path]:
    return sorted(drawn.glob("*/*.jpg"))


@pytest.fixture(scope="module")
def crops(embedder: Embedder, photos: list[Path]) -> list[np.ndarray]:
    return embedder.crops(photos)


def assert_same_features(features: np.ndarray, expected: np.ndarray) -> None:
    """Compare up to the rounding that another batch size causes (embed_crops)."""
    np.testing.assert_allclose(features, expected, atol=1e-6 * np.linalg.norm(expected, axis=1).mean())


def test_a_caffe_model_gives_the_same_features(
    untrained_model: Path, embedder: Embedder, crops: list[np.ndarray], tmp_path: Path
) -> None:
    convert(untrained_model, tmp_path / "model.caffemodel")
    assert_same_features(Embedder(tmp_path / "model.caffemodel", "cpu").features(crops), embedder.features(crops))


def test_paths_arrays_crops_and_streams_give_the_same_features(
    embedder: Embedder, photos: list[Path], crops: list[np.ndarray]
) -> None:
    features = embedder(photos)
    assert features.shape == (12, 32) and features.dtype == np.float32 and np.ptp(features, axis=0).min() > 0
    np.testing.assert_array_equal(embedder.features(crops), features)
    np.testing.assert_array_equal(embedder.features(np.stack(crops)), features)
    np.testing.assert_array_equal(embedder.features(crop for crop in crops), features)
    np.testing.assert_array_equal(embedder(map(str, photos)), features)
    np.testing.assert_array_equal(np.stack(list(embedder.stream(photos))), features)
    assert_same_features(np.concatenate([embedder([read_photo(photo)]) for photo in photos[:3]]), features[:3])


def test_no_photos_give_no_features(embedder: Embedder) -> None:
    assert embedder([]).shape == embedder.features([]).shape == (0, 32) and not list(embedder.stream([]))


def test_the_face_nearest_to_the_centre_is_used(untrained_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither the most confident nor the largest face of the photo."""
    photo = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    boxes = np.array([[10, 10, 50, 60], [130, 80, 160, 120], [200, 20, 290, 120]], np.float32)
    shape = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
    landmarks = boxes[:, None, :2] + shape * (boxes[:, None, 2:] - boxes[:, None, :2])
    embedder = Embedder(untrained_model, "cpu")
    detector = embedder._aligner._detector
    monkeypatch.setattr(detector, "detect", lambda _: [Faces(boxes, np.array([0.99, 0.9, 0.95]), landmarks)])
    (faces,) = detector.detect([photo])
    assert faces.boxes[[0, 1]].tolist() == boxes[[0, 2]].tolist()  # sorted by score
    np.testing.assert_array_equal(embedder.crops([photo])[0], align(photo, landmarks[1]))


def test_a_photo_without_a_face_does_not_stop_a_stream(embedder: Embedder, photos: list[Path], tmp_path: Path) -> None:
    Image.fromarray(np.zeros((99, 99, 3), np.uint8)).save(tmp_path / "black.png")
    sources = [photos[0], tmp_path / "black.png", photos[1], tmp_path / "gone.jpg", photos[2]]
    results = list(embedder.stream(sources))
    assert [type(result) for result in results] == [np.ndarray, PhotoError, np.ndarray, PhotoError, np.ndarray]
    assert "black.png: no face found" in str(results[1]) and "gone.jpg: cannot be read" in str(results[3])
    assert_same_features(np.stack(results[::2]), embedder(photos[:3]))
    for source, message in ((sources[1], "no face found"), (sources[3], "cannot be read")):
        with pytest.raises(PhotoError, match=message):
            embedder([photos[0], source])


@pytest.mark.slow
def test_a_stream_reads_only_a_few_photos_in_advance(embedder: Embedder, photos: list[Path]) -> None:
    photo = read_photo(photos[0])
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield photo

    stream = embedder.stream(endless())
    for _ in range(9):
        next(stream)
    assert taken <= 64 + 9
    stream.close()


@pytest.mark.slow
def test_features_of_many_crops_need_little_memory(embedder: Embedder, crops: list[np.ndarray]) -> None:
    """1,000 crops have 32 MB, their features 0.13 MB."""
    tracemalloc.start()
    features = embedder.features(crops[n % 12].copy() for n in range(1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(features) == 1000 and peak < 3e6, peak
    assert_same_features(features[12:24], features[:12])


@pytest.mark.parametrize("crop", [np.zeros((96, 112, 3), np.uint8), np.zeros((96, 112), np.uint8)])
def test_crops_of_another_size_are_refused(embedder: Embedder, crops: list[np.ndarray], crop: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"crop 1: expected uint8 \(112, 96, 3\), got uint8 \(96, 112, 3\); make"):
        embedder.features([crops[0], crop])
    with pytest.raises(PhotoError, match=r"crop: expected uint8 .*, got float32 \(112, 96, 3\)"):
        embedder.features(np.zeros((112, 96, 3), np.float32))


def test_bfloat16_features_are_close_to_float32(
    untrained_model: Path, embedder: Embedder, crops: list[np.ndarray]
) -> None:
    features, rounded = embedder.features(crops), Embedder(untrained_model, "cpu", "bfloat16").features(crops)
    error = np.linalg.norm(rounded - features, axis=1) / np.linalg.norm(features, axis=1)
    assert error.min() > 1e-4 and error.max() < 0.01
    with pytest.raises(UsageError, match="use float32 or bfloat16"):
        Embedder(untrained_model, "cpu", "int8").features(crops)  # type: ignore[arg-type]


def test_a_folder_of_crops_is_embedded_without_detection(
    embedder: Embedder, untrained_model: Path, crops: list[np.ndarray], tmp_path: Path, sfplus: Callable
) -> None:
    folder = tmp_path / "crops"
    (folder / "é").mkdir(parents=True)
    for number, crop in enumerate(crops):
        Image.fromarray(crop).save(folder / "é" / f"{number:02}.png")
    (folder / "07 broken.jpg").write_bytes(b"no photo")
    Image.fromarray(np.zeros((250, 250, 3), np.uint8)).save(folder / "photo.png")
    answer = sfplus("embed", folder, tmp_path / "out", "--crops", "--model", untrained_model, "--device", "cpu")
    assert answer.code == 1 and "12 crops, 0 photos without a face, 2 failed" in answer.out
    assert "float32" in answer.err and "is 250x250 (height x width), not 112x96" in answer.err
    assert [row["photo"] for row in read_json_lines(tmp_path / "out/failures.jsonl")] == ["07 broken.jpg", "photo.png"]
    index = read_parquet(tmp_path / "out/index.parquet")
    assert index == {"photo": [f"é/{number:02}.png" for number in range(12)], "how": ["crop"] * 12}
    features = load_file(tmp_path / "out/features.safetensors")["features"]
    np.testing.assert_array_equal(features, embedder.features(crops))

    answer = sfplus(
        "embed",
        folder,
        tmp_path / "half",
        "--crops",
        "--model",
        untrained_model,
        "--device",
        "cpu",
        "--dtype",
        "bfloat16",
    )
    half = load_file(tmp_path / "half/features.safetensors")["features"]
    assert "bfloat16" in answer.err and 1e-4 < np.linalg.norm(half - features) / np.linalg.norm(features) < 0.01
    manifest = next((tmp_path / "half/.sfplus/cache/embed").glob("*/manifest.json"))
    assert json.loads(manifest.read_text())["settings"] == {"dtype": "bfloat16"}


def test_a_folder_without_crops_is_refused(
    untrained_model: Path, drawn: Path, tmp_path: Path, sfplus: Callable
) -> None:
    answer = sfplus("embed", drawn, tmp_path / "out", "--crops", "--model", untrained_model)
    assert answer.code == 1 and "no crop can be used (is " in answer.err and "without --crops" in answer.err
    answer = sfplus("embed", drawn, tmp_path / "out", "--dtype", "float16")
    assert answer.code == 2 and "float16" in answer.err


def test_crops_used_as_photos_cause_a_warning(
    untrained_model: Path, crops: list[np.ndarray], tmp_path: Path, sfplus: Callable
) -> None:
    (tmp_path / "in").mkdir()
    for number, crop in enumerate(crops):
        Image.fromarray(crop).save(tmp_path / "in" / f"{number}.png")
    assert (
        "aligning twice costs accuracy"
        in sfplus("embed", tmp_path / "in", tmp_path / "out", "--model", untrained_model).err
    )
