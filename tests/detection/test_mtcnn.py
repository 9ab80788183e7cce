from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN
from skimage import data
from skimage.transform import resize
from torch.utils._python_dispatch import TorchDispatchMode

from sfplus.detection import Detector, Faces
from sfplus.errors import DependencyError, DeviceError, PhotoError, UsageError
from sfplus.images import encode_image, list_photos, read_photo

ASTRONAUT = data.astronaut()
FACE = np.ascontiguousarray(ASTRONAUT[20:220, 130:310])  # 200 x 180


def shrunk(height: int, width: int) -> np.ndarray:
    return (resize(FACE, (height, width), anti_aliasing=True) * 255).astype(np.uint8)


PHOTOS = [
    FACE,
    np.ascontiguousarray(FACE[:, ::-1]),
    shrunk(100, 90),
    np.concatenate([shrunk(80, 70), shrunk(80, 72)[:, ::-1], np.zeros((80, 9, 3), np.uint8)], 1),
    np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8),
    shrunk(100, 90)[:, ::-1],
    np.zeros((100, 90, 3), np.uint8),
]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(device="cpu")


@pytest.fixture(scope="module")
def plain() -> Detector:
    return Detector(mirror_landmarks=False, device="cpu")


@pytest.fixture(scope="module")
def same() -> Detector:
    return Detector(device="cpu", parity="facenet-pytorch")


def facenet(photo: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    network = MTCNN(min_face_size=20, factor=0.85, thresholds=[0.6, 0.7, 0.9], keep_all=True, select_largest=False)
    boxes, scores, landmarks = network.detect(photo, landmarks=True)
    if boxes is None:
        return np.empty((0, 4)), np.empty(0), np.empty((0, 5, 2))
    return np.stack(boxes).astype(float), np.array(scores, float), np.stack(landmarks).astype(float)


def same_bits(one: Faces, other: Faces) -> bool:
    return all(np.array_equal(getattr(one, n), getattr(other, n)) for n in ("boxes", "scores", "landmarks"))


@pytest.mark.parametrize("photo", [ASTRONAUT, FACE, PHOTOS[2], PHOTOS[3]], ids=["astronaut", "face", "small", "two"])
def test_agrees_with_facenet_pytorch(same: Detector, photo: np.ndarray) -> None:
    boxes, scores, landmarks = facenet(photo)
    assert len(boxes)
    (faces,) = same.detect([photo])
    order = np.argsort(-scores, kind="stable")
    np.testing.assert_allclose(faces.boxes, boxes[order], atol=0.01)
    np.testing.assert_allclose(faces.landmarks, landmarks[order], atol=0.01)
    np.testing.assert_allclose(faces.scores, scores[order], atol=1e-4)


def test_finds_the_astronaut(detector: Detector) -> None:
    best = detector.detect([ASTRONAUT])[0][0]
    x1, y1, x2, y2 = best.boxes[0]
    assert x1 < 200 and x2 > 245 and y1 < 95 and y2 > 155
    left_eye, right_eye, nose, left_mouth, right_mouth = best.landmarks[0]
    assert left_eye[0] < nose[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
    assert left_eye[1] < nose[1] < left_mouth[1]
    assert best.scores[0] > 0.99


def test_order_and_company_do_not_change_a_bit(detector: Detector) -> None:
    alone = [detector.detect([photo])[0] for photo in PHOTOS]
    assert sum(map(len, alone)) >= 5
    for seed in range(3):
        order = np.random.default_rng(seed).integers(0, len(PHOTOS), 2 * len(PHOTOS))
        together = detector.detect([PHOTOS[i] for i in order])
        assert all(same_bits(faces, alone[i]) for faces, i in zip(together, order, strict=True))


def test_chunks_do_not_change_a_bit(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = detector.detect(PHOTOS)
    monkeypatch.setattr(detector, "_chunk_pixels", 30_000)
    assert all(same_bits(a, b) for a, b in zip(detector.detect(PHOTOS), whole, strict=True))


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_threads_do_not_change_a_bit_and_stay_as_they_were(
    detector: Detector, set_threads: Callable[[int], None]
) -> None:
    found = []
    for threads in (1, 2, 3):
        set_threads(threads)
        found.append(detector.detect(PHOTOS))
        with ThreadPoolExecutor(1) as pool:
            assert torch.get_num_threads() == pool.submit(torch.get_num_threads).result() == threads
    assert all(same_bits(a, b) and same_bits(a, c) for a, b, c in zip(*found, strict=True))


def test_an_error_in_a_lane_reaches_the_caller(
    detector: Detector, monkeypatch: pytest.MonkeyPatch, set_threads: Callable[[int], None]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(detector, "_search", broken)
    set_threads(2)
    with pytest.raises(RuntimeError, match="out of memory"):
        detector.detect(PHOTOS)


@pytest.fixture
def as_on_gpu(monkeypatch: pytest.MonkeyPatch) -> Detector:
    """A detector that does on the CPU what it does on a GPU: many canvases, candidates and photos at a time."""
    detector = Detector(device="cpu")
    detector._batch_sizes, detector._search_pixels = (100_000, 96, 32), 1 << 23
    monkeypatch.setattr("sfplus.detection.suppression._PAIRS", 1 << 24)
    return detector


def test_the_way_of_the_gpu_gives_the_same_faces(detector: Detector, as_on_gpu: Detector) -> None:
    for faces, expected in zip(as_on_gpu.detect(PHOTOS), detector.detect(PHOTOS), strict=True):
        np.testing.assert_allclose(faces.boxes, expected.boxes, atol=1e-3)
        np.testing.assert_allclose(faces.landmarks, expected.landmarks, atol=1e-3)


class Fetches(TorchDispatchMode):
    """Counts operations for whose result the host waits: values, sizes that depend on values, copies of tensors."""

    WAITS = (
        "aten.nonzero",
        "aten._local_scalar_dense",
        "aten.equal",
        "aten.unique",
        "aten.masked_select",
        "torchvision",
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: object, types: object, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
    ) -> object:
        masks = func is torch.ops.aten.index.Tensor and any(
            part is not None and part.dtype == torch.bool
            for part in args[1]  # type: ignore[attr-defined]
        )
        self.count += masks or str(func).startswith(self.WAITS)
        return func(*args, **(kwargs or {}))  # type: ignore[operator]


def test_a_gpu_is_not_waited_for_photo_by_photo(as_on_gpu: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor for each batch of canvases or candidates; values leave it by `tolist` and `cpu`, a few times in all."""
    left: list[str] = []
    for name in ("tolist", "cpu"):
        method = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda tensor, method=method, name=name: left.append(name) or method(tensor)
        )
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # one lane, as on a GPU
    counts = []
    for photos in (PHOTOS, PHOTOS * 6):
        left.clear()
        with Fetches() as fetches:
            assert len(as_on_gpu.detect(photos)) == len(photos)
        counts.append((fetches.count, len(left)))
    assert counts[0] == counts[1] and 10 < counts[0][0] < 60 and counts[0][1] < 20


def test_bfloat16_finds_the_same_faces_a_little_beside(detector: Detector) -> None:
    half = Detector(device="cpu", precision="bf16")
    for faces, expected in zip(half.detect([FACE, ASTRONAUT]), detector.detect([FACE, ASTRONAUT]), strict=True):
        assert not np.array_equal(faces.boxes[0], expected.boxes[0])
        np.testing.assert_allclose(faces.boxes[0], expected.boxes[0], atol=3)
        np.testing.assert_allclose(faces.landmarks[0], expected.landmarks[0], atol=3)


def test_mirrored_landmarks_are_the_mean_of_both_passes(detector: Detector, plain: Detector) -> None:
    """In a photo that is its own mirror image, averaging leaves landmarks that mirror one another."""
    half = FACE[:, :90]
    symmetric = np.concatenate([half, half[:, ::-1]], 1)
    both, one = detector.detect([symmetric])[0], plain.detect([symmetric])[0]
    assert len(both) == len(one) >= 1
    assert np.array_equal(both.boxes, one.boxes) and np.array_equal(both.scores, one.scores)

    def asymmetry(faces: Faces) -> float:
        mirrored = np.stack([179 - faces.landmarks[0, [1, 0, 2, 4, 3], 0], faces.landmarks[0, [1, 0, 2, 4, 3], 1]], 1)
        return float(abs(mirrored - faces.landmarks[0]).mean())

    assert asymmetry(both) < min(1.5, asymmetry(one))


def mirror_offset(detector: Detector, photos: list[np.ndarray]) -> float:
    """How far right of the truth x is: in the mirror image x becomes width - 1 - x, and any offset shows."""
    mirrored = [np.ascontiguousarray(photo[:, ::-1]) for photo in photos]
    offsets = [
        (one.landmarks[0, :, 0] + other.landmarks[0, [1, 0, 2, 4, 3], 0] - (photo.shape[1] - 1)) / 2
        for photo, one, other in zip(photos, detector.detect(photos), detector.detect(mirrored), strict=True)
        if len(one) == len(other) == 1
    ]
    return float(np.median(offsets))


def test_landmarks_are_counted_from_0(detector: Detector) -> None:
    parts = [
        np.ascontiguousarray(ASTRONAUT[y : y + 170, x : x + 150]) for y in range(20, 35, 5) for x in range(140, 156, 5)
    ]
    assert abs(mirror_offset(detector, parts)) < 0.4


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
def test_photos_without_faces(detector: Detector, photo: np.ndarray) -> None:
    (faces,) = detector.detect([photo])
    assert len(faces) == 0


def test_no_photos_at_all(detector: Detector) -> None:
    assert detector.detect([]) == []


def test_faces_cut_by_the_border(detector: Detector, same: Detector) -> None:
    """Landmarks stay where they are in the whole photo; squeezed candidates, as facenet-pytorch has them, move."""
    whole = detector.detect([FACE])[0].landmarks[0]
    (x1, y1), (x2, y2) = whole.min(0).astype(int) - 16, whole.max(0).astype(int) + 16
    away = []
    for top, left, bottom, right in ((y1, 0, 200, 180), (0, x1, 200, 180), (0, 0, y2, 180), (0, 0, 200, x2)):
        part = np.ascontiguousarray(FACE[top:bottom, left:right])
        found = [one.detect([part])[0].landmarks[0] + np.array([left, top]) for one in (detector, same)]
        away.append([abs(points - whole).max() for points in found])
    ours, theirs = np.array(away).T
    assert ours.max() < 5 and theirs.mean() > 15


def test_paths_are_read_and_their_errors_reach_the_caller(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_image(FACE, ".png"))
    (tmp_path / "b.jpg").write_bytes(b"")
    assert same_bits(detector.detect([tmp_path / "a.png"])[0], detector.detect([FACE])[0])
    with pytest.raises(PhotoError, match=r"b.jpg: is empty"):
        detector.detect([tmp_path / "a.png", tmp_path / "b.jpg"])


@pytest.mark.parametrize("photo", [FACE[:, :, 0], FACE.astype(np.float32), FACE[:0], np.zeros((9, 9, 4), np.uint8)])
def test_arrays_that_are_no_photos(detector: Detector, photo: np.ndarray) -> None:
    with pytest.raises(PhotoError, match=r"photo 1: expected uint8 RGB"):
        detector.detect([FACE, photo])


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
def test_settings_out_of_range(settings: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        Detector(**{"device": "cpu", **settings})  # type: ignore[arg-type]


def test_missing_and_broken_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.split(".")[0] == "facenet_pytorch"]:
            patch.delitem(sys.modules, name)
        patch.setattr(sys, "path", [])
        patch.setattr(sys, "path_importer_cache", {})
        with pytest.raises(DependencyError, match=r"needs facenet-pytorch, .*--no-deps facenet-pytorch==2.6.0"):
            Detector(device="cpu")

    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError("no pnet.pt")

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(DependencyError, match=r"broken \(no pnet.pt\).*pip install --no-deps"):
        Detector(device="cpu")


def test_importing_the_room_does_not_import_torch() -> None:
    check = "import sys, sfplus.detection, sfplus.alignment; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.slow
def test_nearly_every_real_photo_has_a_face_and_order_does_not_matter(detector: Detector, shared_data: Path) -> None:
    root = shared_data / "lfw" / "photos"
    paths = [root / name for name in list_photos(root)[::60]]
    found = detector.detect(paths)
    assert sum(map(bool, map(len, found))) >= len(paths) - 1
    order = np.random.default_rng(0).permutation(len(paths))
    again = detector.detect([paths[i] for i in order])
    assert all(same_bits(again[k], found[i]) for k, i in enumerate(order))


@pytest.mark.slow
def test_landmarks_are_counted_from_0_on_real_photos(detector: Detector, shared_data: Path) -> None:
    """Also down: x of a pixel's centre becomes 3 x + 1 when every pixel is repeated three times."""
    root = shared_data / "lfw" / "photos"
    photos = [read_photo(root / name) for name in list_photos(root)[::128]]
    assert abs(mirror_offset(detector, photos)) < 0.2
    large = Detector(min_face=60, device="cpu").detect([photo.repeat(3, 0).repeat(3, 1) for photo in photos])
    pairs = [(a, b) for a, b in zip(detector.detect(photos), large, strict=True) if len(a) == len(b) == 1]
    offsets = [(3 * a.landmarks[0].astype(float) + 1 - b.landmarks[0]) / 2 for a, b in pairs]
    assert len(pairs) > 40
    assert abs(np.median(offsets, (0, 1))).max() < 0.3


@pytest.mark.parametrize("seed", range(3))
def test_photos_turned_and_enlarged(detector: Detector, seed: int) -> None:
    """Upright faces are found at any size; upside down, the network sees what it sees, without an error."""
    side = [40, 200, 700][seed]
    photo = (
        shrunk(side, side * 9 // 10) if side < 200 else (resize(FACE, (side, side * 9 // 10)) * 255).astype(np.uint8)
    )
    upright, *turned = detector.detect([np.ascontiguousarray(np.rot90(photo, k)) for k in range(4)])
    assert len(upright) >= 1 and all(np.isfinite(faces.landmarks).all() for faces in turned)
    assert upright.landmarks[0].min() > 0 and upright.landmarks[0].max() < side
