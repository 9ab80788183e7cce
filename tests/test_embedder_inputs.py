"""An embedder takes photos of all kinds, and gives the faces it used and their similarity."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from untrained_models import save_untrained

from sfplus import Detector, Embedder
from sfplus.detection import choose
from sfplus.embedded_faces import EmbeddedFaces
from sfplus.errors import PhotoError, UsageError
from sfplus.images import read_photo
from sfplus.verification.decision import DecisionRule


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with a mean feature."""
    folder = tmp_path_factory.mktemp("inputs") / "model"
    verification = {"threshold": 0.25, "accuracy": 0.9, "pairs": "200 pairs of pairs.txt", "protocol": "sphereface"}
    save_untrained(folder, verification=verification)
    mean = np.linspace(-0.01, 0.01, 32, dtype=np.float32)
    DecisionRule(mean, np.ones(1, np.float32), np.zeros(1, np.float32), verification).save(folder)
    return folder


@pytest.fixture(scope="module")
def embedder(model: Path) -> Embedder:
    return Embedder(model, "cpu")


@pytest.fixture(scope="module")
def photos(drawn: Path) -> list[Path]:
    return sorted(drawn.glob("*/*.jpg"))[::3]


@pytest.fixture(scope="module")
def crowd(photos: list[Path]) -> np.ndarray:
    """A photo of three people."""
    return np.concatenate([read_photo(photo) for photo in photos[:3]], 1)


def kinds(path: Path) -> dict[str, Any]:
    array = read_photo(path)
    return {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "array": array,
        "Pillow": Image.open(path),
        "tensor HWC": torch.from_numpy(array),
        "tensor CHW": torch.from_numpy(array).permute(2, 0, 1),
    }


def test_one_photo_of_any_kind_gives_one_result(embedder: Embedder, photos: list[Path]) -> None:
    feature, crop = embedder(photos[0]), embedder.crops(photos[0])
    assert feature.shape == (32,) and crop.shape == (112, 96, 3)
    for photo in kinds(photos[0]).values():
        np.testing.assert_array_equal(embedder(photo), feature)
        np.testing.assert_array_equal(embedder.crops(photo), crop)
        np.testing.assert_array_equal(embedder.faces(photo).features[0], feature)
        np.testing.assert_array_equal(next(embedder.stream(photo)), feature)
    several = embedder(iter(kinds(photos[0]).values()))
    assert several.shape == (7, 32) and abs(several - feature).max() < 1e-5 * abs(feature).max()
    np.testing.assert_array_equal(embedder([photos[0]]), feature[None])
    np.testing.assert_array_equal(embedder(read_photo(photos[0])[:, :, ::-1], channels="bgr"), feature)
    np.testing.assert_array_equal(embedder.crops(read_photo(photos[0])[:, :, ::-1], channels="bgr"), crop)


def test_one_crop_gives_one_feature(embedder: Embedder, photos: list[Path], tmp_path: Path) -> None:
    crop = embedder.crops(photos[0])
    Image.fromarray(crop).save(tmp_path / "crop.png")
    for form in (crop, Image.fromarray(crop), torch.from_numpy(crop).permute(2, 0, 1), tmp_path / "crop.png"):
        np.testing.assert_array_equal(embedder.features(form), embedder(photos[0]))


def test_all_faces_of_a_photo_come_with_crops_and_features(embedder: Embedder, crowd: np.ndarray) -> None:
    faces, expected = embedder.faces(crowd), Detector(device="cpu").detect(crowd)
    assert len(faces) == len(expected) >= 3 and repr(faces).startswith(f"EmbeddedFaces({len(faces)}: ")
    for name in ("boxes", "scores", "landmarks"):
        np.testing.assert_array_equal(getattr(faces, name), getattr(expected, name))
    assert faces.crops.shape == (len(faces), 112, 96, 3) and faces.features.shape == (len(faces), 32)
    np.testing.assert_array_equal(embedder.features(faces.crops), faces.features)
    assert not faces.features.flags.writeable and not faces.crops.flags.writeable
    choice = choose(faces, *crowd.shape[:2], "centre")
    assert choice is not None
    (used,) = embedder.faces([crowd], choose="centre")
    assert isinstance(used, EmbeddedFaces) and len(used) == 1
    for name in ("boxes", "landmarks", "crops"):
        np.testing.assert_array_equal(getattr(used, name)[0], getattr(faces, name)[choice.index])
    np.testing.assert_array_equal(used.features[0], embedder(crowd))
    np.testing.assert_array_equal(used.crops[0], embedder.crops(crowd))
    last = faces[[-1, 0]]
    np.testing.assert_array_equal(last.features, faces.features[[0, -1]])  # sorted by score
    np.testing.assert_array_equal(last.crops, faces.crops[[0, -1]])


def test_the_rule_of_the_embedder_decides_which_face_is_used(model: Path, crowd: np.ndarray) -> None:
    largest = np.concatenate([crowd, np.asarray(Image.fromarray(crowd[:, :250]).resize((500, 500)))[:250]], 1)
    crops = {rule: Embedder(model, "cpu", choose=rule).crops(largest) for rule in ("centre", "largest")}  # type: ignore[arg-type]
    assert not np.array_equal(crops["centre"], crops["largest"])
    for rule, crop in crops.items():
        np.testing.assert_array_equal(Embedder(model, "cpu").faces(largest, choose=rule).crops[0], crop)  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="choose: no rule is called 'biggest'; use centre, largest, confident"):
        Embedder(model, "cpu", choose="biggest")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="choose: no rule is called 'first'; use all, centre"):
        Embedder(model, "cpu").faces(crowd, choose="first")  # type: ignore[call-overload]


def test_photos_without_faces_give_empty_faces(embedder: Embedder, photos: list[Path]) -> None:
    empty = np.zeros((99, 99, 3), np.uint8)
    for rule in ("all", "centre"):
        none, some = embedder.faces([empty, photos[0]], choose=rule)  # type: ignore[call-overload]
        assert len(none) == 0 and len(some) == 1
        assert none.crops.shape == (0, 112, 96, 3) and none.features.shape == (0, 32)
    assert embedder.faces([]) == [] and len(embedder.faces(empty)) == 0
    with pytest.raises(PhotoError, match="photo 1: no face found"):
        embedder([photos[0], empty])
    with pytest.raises(PhotoError, match=r"^photo: no face found"):
        embedder(empty)
    with pytest.raises(PhotoError, match=r"gone.jpg: cannot be read"):
        embedder.faces([photos[0], "gone.jpg"])


def test_parallel_arrays_of_other_lengths_are_refused(embedder: Embedder, photos: list[Path]) -> None:
    faces = embedder.faces(photos[0])
    with pytest.raises(UsageError, match=r"EmbeddedFaces.crops: expected 1, got 0"):
        EmbeddedFaces(faces.boxes, faces.scores, faces.landmarks, faces.crops[:0], faces.features)


MALFORMED = [
    None, 3, "gone.jpg", b"", [1, 2], {}, (), np.zeros((9, 9, 3)), np.zeros(4, np.uint8), np.zeros((0, 9, 3), np.uint8),
    np.zeros((1, 9, 9, 3), np.uint8), np.zeros((3, 50, 50), np.uint8), torch.zeros(3, 9, 3, dtype=torch.uint8),
    torch.zeros(3, 9, 9), Image.new("F", (9, 9)), np.zeros((99, 99, 3), np.uint8), np.zeros((1, 1), np.uint8), object(),
]  # fmt: skip


def test_no_malformed_photo_ends_a_stream(embedder: Embedder, photos: list[Path]) -> None:
    sources = [source for bad in MALFORMED for source in (bad, photos[0])]
    results = list(embedder.stream(iter(sources)))
    assert len(results) == 2 * len(MALFORMED)
    assert all(isinstance(result, PhotoError) for result in results[::2])
    assert all(isinstance(result, np.ndarray) and result.shape == (32,) for result in results[1::2])
    assert str(results[0]).startswith("photo 0: expected a path") and "photo 2: expected" in str(results[2])


def test_landmarks_that_allow_no_crop_do_not_end_a_stream(
    model: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = Embedder(model, "cpu")
    detect = embedder._aligner._detector.detect

    def degenerate(batch: list[np.ndarray]) -> Any:
        faces, *others = detect(batch)
        return [type(faces)(faces.boxes, faces.scores, np.zeros_like(faces.landmarks)), *others]

    monkeypatch.setattr(embedder._aligner._detector, "detect", degenerate)
    first, second = embedder.stream(photos[:2])
    assert str(first) == f"{photos[0]}: landmarks all lie on one point; leave this face out"
    assert isinstance(second, np.ndarray)


def test_frames_of_opencv_can_be_streamed(embedder: Embedder, photos: list[Path]) -> None:
    frames = (read_photo(photo)[:, :, ::-1] for photo in photos)
    np.testing.assert_array_equal(list(embedder.stream(frames, channels="bgr")), embedder(photos))


@pytest.mark.slow
def test_similarity_subtracts_the_mean_of_the_model(embedder: Embedder, photos: list[Path]) -> None:
    assert embedder.decision_rule is not None
    a, b = embedder(photos[:2]).astype(np.float64) - embedder.decision_rule.mean
    expected = a @ b / np.sqrt((a @ a) * (b @ b))
    first, second = photos[:2]
    score = embedder.similarity(first, second)
    assert isinstance(score, float) and score == pytest.approx(expected, abs=1e-6)
    assert embedder.similarity(Image.open(first), read_photo(second)) == pytest.approx(score, abs=1e-6)
    assert embedder.similarity(embedder(first), second) == pytest.approx(score, abs=1e-6)
    scores = embedder.similarity(first, photos)
    assert scores.shape == (4,) and scores[0] == pytest.approx(1) and scores[1] == pytest.approx(score, abs=1e-6)
    np.testing.assert_allclose(np.diag(embedder.similarity(photos, photos)[None]), 1)
    np.testing.assert_allclose(embedder.similarity(embedder(photos), photos[::-1]), scores_of(embedder, photos))


def scores_of(embedder: Embedder, photos: list[Path]) -> list[float]:
    return [embedder.similarity(*pair) for pair in zip(photos, photos[::-1], strict=True)]


def test_similarity_of_a_model_without_a_mean_is_the_cosine(model: Path, photos: list[Path]) -> None:
    plain = Embedder(model, "cpu", input="sphereface")  # the mean belongs to the model's own input
    assert plain.decision_rule is None
    a, b = plain(photos[:2]).astype(np.float64)
    assert plain.similarity(*photos[:2]) == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), abs=1e-6)


def test_what_cannot_be_compared_is_refused(embedder: Embedder, photos: list[Path]) -> None:
    with pytest.raises(UsageError, match=r"expected features of shape \(..., 32\), got float32 \(512,\); compute both"):
        embedder.similarity(photos[0], np.zeros(512, np.float32))
    with pytest.raises(UsageError, match="similarity: got 2 and 3 photos; pass equal numbers"):
        embedder.similarity(photos[:2], photos[:3])
    with pytest.raises(PhotoError, match=r"gone.jpg: cannot be read"):
        embedder.similarity("gone.jpg", photos[0])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_the_host_process_is_returned_as_before(model: Path) -> None:
    """An embedder does not change how the process allocates memory (mallopt)."""
    code = f"""
import re
from pathlib import Path
import numpy as np
from sfplus import Embedder
Embedder({str(model)!r}, "cpu").features(np.zeros((8, 112, 96, 3), np.uint8))
resident = lambda: int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
before = resident()
block = np.ones(2**26)
del block
print(resident() - before)
"""
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(answer.stdout) < 50  # of 512 MB


@pytest.mark.parametrize("before", [True, False])
def test_the_default_dtype_of_torch_does_not_change_a_bit(
    before: bool, model: Path, embedder: Embedder, crowd: np.ndarray
) -> None:
    """It is set before or after the embedder and its detector are created."""
    expected, other = embedder.faces(crowd), Embedder(model, "cpu")
    torch.set_default_dtype(torch.float64)
    try:
        faces = (Embedder(model, "cpu") if before else other).faces(crowd)
    finally:
        torch.set_default_dtype(torch.float32)
    for name in ("boxes", "scores", "landmarks", "crops", "features"):
        np.testing.assert_array_equal(getattr(faces, name), getattr(expected, name))
