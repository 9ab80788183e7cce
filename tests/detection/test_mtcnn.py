from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from face_photos import ASTRONAUT, FACE, PHOTOS, same_bits, shrunk
from facenet_pytorch import MTCNN
from skimage.transform import resize

from sfplus.detection import Detector, Faces
from sfplus.errors import DeviceError, PhotoError, SfplusError, UsageError
from sfplus.images import encode_image, list_photos, read_photo


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(device="cpu")


@pytest.fixture(scope="module")
def unmirrored() -> Detector:
    return Detector(mirror_landmarks=False, device="cpu")


@pytest.fixture(scope="module")
def facenet_parity() -> Detector:
    return Detector(device="cpu", parity="facenet-pytorch")


def facenet_faces(photo: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    network = MTCNN(min_face_size=20, factor=0.85, thresholds=[0.6, 0.7, 0.9], keep_all=True, select_largest=False)
    boxes, scores, landmarks = network.detect(photo, landmarks=True)
    if boxes is None:
        return np.empty((0, 4)), np.empty(0), np.empty((0, 5, 2))
    return np.stack(boxes).astype(float), np.array(scores, float), np.stack(landmarks).astype(float)


@pytest.mark.parametrize("photo", [ASTRONAUT, FACE, PHOTOS[2], PHOTOS[3]], ids=["astronaut", "face", "small", "two"])
def test_facenet_pytorch_parity_gives_its_numbers(facenet_parity: Detector, photo: np.ndarray) -> None:
    boxes, scores, landmarks = facenet_faces(photo)
    assert len(boxes)
    (faces,) = facenet_parity.detect([photo])
    order = np.argsort(-scores, kind="stable")
    np.testing.assert_allclose(faces.boxes, boxes[order], atol=0.01)
    np.testing.assert_allclose(faces.landmarks, landmarks[order], atol=0.01)
    np.testing.assert_allclose(faces.scores, scores[order], atol=1e-4)


def test_the_astronaut_is_detected(detector: Detector) -> None:
    best = detector.detect([ASTRONAUT])[0][0]
    x1, y1, x2, y2 = best.boxes[0]
    assert x1 < 200 and x2 > 245 and y1 < 95 and y2 > 155
    left_eye, right_eye, nose, left_mouth, right_mouth = best.landmarks[0]
    assert left_eye[0] < nose[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
    assert left_eye[1] < nose[1] < left_mouth[1]
    assert best.scores[0] > 0.99


@pytest.mark.slow
def test_order_and_other_photos_do_not_change_a_bit(detector: Detector) -> None:
    expected = [detector.detect([photo])[0] for photo in PHOTOS]
    assert sum(map(len, expected)) >= 5
    for seed in range(3):
        order = np.random.default_rng(seed).integers(0, len(PHOTOS), 2 * len(PHOTOS))
        results = detector.detect([PHOTOS[i] for i in order])
        assert all(same_bits(faces, expected[i]) for faces, i in zip(results, order, strict=True))


def test_chunks_do_not_change_a_bit(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = detector.detect(PHOTOS)
    monkeypatch.setattr(detector, "sizes", detector.sizes._replace(pixels=30_000, photos=2))
    assert all(same_bits(a, b) for a, b in zip(detector.detect(PHOTOS), expected, strict=True))


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_threads_do_not_change_a_bit_nor_their_number(detector: Detector, set_threads: Callable[[int], None]) -> None:
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        results.append(detector.detect(PHOTOS))
        with ThreadPoolExecutor(1) as pool:
            assert torch.get_num_threads() == pool.submit(torch.get_num_threads).result() == threads
    assert all(same_bits(a, b) and same_bits(a, c) for a, b, c in zip(*results, strict=True))


def test_an_exception_in_a_worker_reaches_the_caller(
    detector: Detector, monkeypatch: pytest.MonkeyPatch, set_threads: Callable[[int], None]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR")

    monkeypatch.setattr(detector, "_search", fail)
    set_threads(2)
    with pytest.raises(RuntimeError, match="CUDNN_STATUS_INTERNAL_ERROR"):
        detector.detect(PHOTOS)


MEMORY_ERRORS = {
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "CPU": RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    "Python": MemoryError(),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", MEMORY_ERRORS)
def test_too_little_memory_is_one_line_with_a_remedy(
    detector: Detector,
    monkeypatch: pytest.MonkeyPatch,
    set_threads: Callable[[int], None],
    name: str,
    threads: int,
) -> None:
    def fail(*_: object) -> None:
        raise MEMORY_ERRORS[name]

    set_threads(threads)
    with monkeypatch.context() as patch:
        patch.setattr(detector, "_search", fail)
        with pytest.raises(SfplusError, match=r"^not enough memory \(.*\); use smaller photos or a larger min_face$"):
            detector.detect(PHOTOS)
    assert len(detector.detect([FACE])[0]) == 1  # it can be used again


def test_bfloat16_moves_faces_by_a_few_pixels_at_most(detector: Detector) -> None:
    half = Detector(device="cpu", precision="bf16")
    for faces, expected in zip(half.detect([FACE, ASTRONAUT]), detector.detect([FACE, ASTRONAUT]), strict=True):
        assert not np.array_equal(faces.boxes[0], expected.boxes[0])
        np.testing.assert_allclose(faces.boxes[0], expected.boxes[0], atol=3)
        np.testing.assert_allclose(faces.landmarks[0], expected.landmarks[0], atol=3)


@pytest.mark.parametrize("parity", ["none", "facenet-pytorch", "matlab"])
def test_the_default_dtype_of_torch_does_not_change_a_bit(parity: Any) -> None:
    """It is set before or after the detector is created."""
    before = Detector(device="cpu", parity=parity)
    expected = before.detect([FACE, PHOTOS[3]])
    torch.set_default_dtype(torch.float64)
    try:
        results = [detector.detect([FACE, PHOTOS[3]]) for detector in (before, Detector(device="cpu", parity=parity))]
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(same_bits(a, b) for result in results for a, b in zip(result, expected, strict=True))


def test_mirrored_landmarks_are_the_mean_of_both_passes(detector: Detector, unmirrored: Detector) -> None:
    """Averaged landmarks of a symmetric photo are symmetric."""
    half = FACE[:, :90]
    symmetric = np.concatenate([half, half[:, ::-1]], 1)
    both, single = detector.detect([symmetric])[0], unmirrored.detect([symmetric])[0]
    assert len(both) == len(single) >= 1
    assert np.array_equal(both.boxes, single.boxes) and np.array_equal(both.scores, single.scores)

    def asymmetry(faces: Faces) -> float:
        mirrored = np.stack([179 - faces.landmarks[0, [1, 0, 2, 4, 3], 0], faces.landmarks[0, [1, 0, 2, 4, 3], 1]], 1)
        return float(abs(mirrored - faces.landmarks[0]).mean())

    assert asymmetry(both) < min(1.5, asymmetry(single))


def mirror_offset(detector: Detector, photos: list[np.ndarray]) -> float:
    """Return the offset of x to the right: in the mirror image x becomes width - 1 - x, which reveals any offset."""
    mirrored = [np.ascontiguousarray(photo[:, ::-1]) for photo in photos]
    offsets = [
        (faces.landmarks[0, :, 0] + mirror.landmarks[0, [1, 0, 2, 4, 3], 0] - (photo.shape[1] - 1)) / 2
        for photo, faces, mirror in zip(photos, detector.detect(photos), detector.detect(mirrored), strict=True)
        if len(faces) == len(mirror) == 1
    ]
    return float(np.median(offsets))


def test_landmarks_are_counted_from_0(detector: Detector) -> None:
    regions = [
        np.ascontiguousarray(ASTRONAUT[y : y + 170, x : x + 150]) for y in range(20, 35, 5) for x in range(140, 156, 5)
    ]
    assert abs(mirror_offset(detector, regions)) < 0.4


@pytest.mark.parametrize(
    "photo",
    [
        np.zeros((1, 1, 3), np.uint8),
        np.zeros((1, 500, 3), np.uint8),
        np.zeros((500, 1, 3), np.uint8),
        np.zeros((19, 300, 3), np.uint8),
        np.zeros((20, 20, 3), np.uint8),
        np.full((120, 100, 3), 255, np.uint8),
        np.zeros((100, 120, 3), np.uint8),
        np.random.default_rng(1).integers(0, 256, (150, 100, 3), dtype=np.uint8),
        np.random.default_rng(1).integers(0, 2, (77, 99, 1), dtype=np.uint8).repeat(3, 2) * 255,
    ],
)
def test_photos_without_faces_give_none(detector: Detector, photo: np.ndarray) -> None:
    (faces,) = detector.detect([photo])
    assert len(faces) == 0


def test_an_empty_list_gives_an_empty_list(detector: Detector) -> None:
    assert detector.detect([]) == []


def test_faces_cut_by_the_border_keep_their_landmarks(detector: Detector, facenet_parity: Detector) -> None:
    """Their positions are those in the whole photo; with the squeezed candidates of facenet-pytorch they move."""
    whole = detector.detect([FACE])[0].landmarks[0]
    (x1, y1), (x2, y2) = whole.min(0).astype(int) - 16, whole.max(0).astype(int) + 16
    errors = []
    for top, left, bottom, right in ((y1, 0, 200, 180), (0, x1, 200, 180), (0, 0, y2, 180), (0, 0, 200, x2)):
        photo = np.ascontiguousarray(FACE[top:bottom, left:right])
        results = [
            variant.detect([photo])[0].landmarks[0] + np.array([left, top]) for variant in (detector, facenet_parity)
        ]
        errors.append([abs(points - whole).max() for points in results])
    ours, theirs = np.array(errors).T
    assert ours.max() < 5 and theirs.mean() > 15


def test_paths_are_read_and_their_exceptions_reach_the_caller(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_image(FACE, ".png"))
    (tmp_path / "b.jpg").write_bytes(b"")
    assert same_bits(detector.detect([tmp_path / "a.png"])[0], detector.detect([FACE])[0])
    with pytest.raises(PhotoError, match=r"b.jpg: is empty"):
        detector.detect([tmp_path / "a.png", tmp_path / "b.jpg"])


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"min_face": 11}, UsageError),
        ({"min_face": float("nan")}, UsageError),
        ({"factor": 1.0}, UsageError),
        ({"factor": 0.0}, UsageError),
        ({"thresholds": (0.6, 0.7)}, UsageError),
        ({"thresholds": (0.6, 0.7, 1.1)}, UsageError),
        ({"device": "tpu"}, UsageError),
        ({"precision": "fp16"}, UsageError),
        ({"precision": "half"}, UsageError),
        ({"device": "cuda:99"}, DeviceError),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        Detector(**{"device": "cpu", **settings})  # type: ignore[arg-type]


def test_importing_the_package_does_not_import_torch() -> None:
    check = "import sys, sfplus.detection, sfplus.alignment; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.slow
def test_nearly_all_real_photos_have_a_face_in_any_order(detector: Detector, shared_data: Path) -> None:
    root = shared_data / "lfw" / "photos"
    paths = [root / name for name in list_photos(root)[::60]]
    results = detector.detect(paths)
    assert sum(map(bool, map(len, results))) >= len(paths) - 1
    order = np.random.default_rng(0).permutation(len(paths))
    again = detector.detect([paths[i] for i in order])
    assert all(same_bits(again[k], results[i]) for k, i in enumerate(order))


@pytest.mark.slow
def test_landmarks_are_counted_from_0_on_real_photos(detector: Detector, shared_data: Path) -> None:
    """Also downwards: x of a pixel centre becomes 3 x + 1 when each pixel is repeated three times."""
    root = shared_data / "lfw" / "photos"
    photos = [read_photo(root / name) for name in list_photos(root)[::128]]
    assert abs(mirror_offset(detector, photos)) < 0.2
    large = Detector(min_face=60, device="cpu").detect([photo.repeat(3, 0).repeat(3, 1) for photo in photos])
    pairs = [(a, b) for a, b in zip(detector.detect(photos), large, strict=True) if len(a) == len(b) == 1]
    offsets = [(3 * a.landmarks[0].astype(float) + 1 - b.landmarks[0]) / 2 for a, b in pairs]
    assert len(pairs) > 40
    assert abs(np.median(offsets, (0, 1))).max() < 0.3


@pytest.mark.parametrize("seed", range(3))
def test_rotated_and_enlarged_photos_are_accepted(detector: Detector, seed: int) -> None:
    """Upright faces are detected at any size; rotated photos cause no error, whatever is detected."""
    side = [40, 200, 700][seed]
    photo = (
        shrunk(side, side * 9 // 10) if side < 200 else (resize(FACE, (side, side * 9 // 10)) * 255).astype(np.uint8)
    )
    upright, *rotated = detector.detect([np.ascontiguousarray(np.rot90(photo, k)) for k in range(4)])
    assert len(upright) >= 1 and all(np.isfinite(faces.landmarks).all() for faces in rotated)
    assert upright.landmarks[0].min() > 0 and upright.landmarks[0].max() < side


def test_a_detector_on_a_cpu_lets_freed_blocks_be_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr("sfplus.detection.mtcnn.reuse_freed_blocks", lambda: calls.append("reused"))
    Detector(device="cpu")
    assert calls == ["reused"]
