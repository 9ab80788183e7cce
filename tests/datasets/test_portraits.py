"""Drawn portraits: true landmarks, reproducible bytes, faces that a detector finds, people who differ by face."""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage.feature import hog
from skimage.transform import SimilarityTransform
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from sfplus.datasets.portraits import LANDMARK_COLUMNS, Portrait, draw_portrait, hair, head, parameters, write_portraits

PEOPLE, PHOTOS = 16, 4


@pytest.fixture(scope="module")
def crowd() -> list[list[Portrait]]:
    return [[draw_portrait(person, photo) for photo in range(PHOTOS)] for person in range(PEOPLE)]


def decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the least-squares similarity transform (2, 3)."""
    transform = SimilarityTransform()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # renamed in scikit-image 0.26
        assert transform.estimate(np.asarray(source, float), np.asarray(target, float))
    return transform.params[:2]


def test_a_portrait_is_an_rgb_photo_with_five_points_inside(crowd):
    for portrait in (p for person in crowd for p in person):
        assert portrait.photo.shape == (250, 250, 3) and portrait.photo.dtype == np.uint8
        assert portrait.landmarks.shape == (5, 2) and portrait.landmarks.dtype == np.float32
        assert (portrait.landmarks > 20).all() and (portrait.landmarks < 230).all()
        left_eye, right_eye, _, left_mouth, right_mouth = portrait.landmarks
        assert left_eye[0] + 15 < right_eye[0] and left_mouth[0] + 10 < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < max(left_mouth[1], right_mouth[1])
        assert abs(portrait.roll) <= 25 and abs(portrait.yaw) <= 28
    assert np.ptp([p.photo.mean() for person in crowd for p in person]) > 40  # light differs


def test_photos_do_not_depend_on_earlier_draws():
    alone = draw_portrait(3, 2, 7).jpeg()
    for cached in (head.build_head, hair.build_hair, parameters.draw_person):
        cached.cache_clear()
    for person, photo in ((9, 0), (3, 5), (4, 2), (3, 0)):
        draw_portrait(person, photo, 7, roll=10)
    assert draw_portrait(3, 2, 7).jpeg() == alone


def test_people_photos_and_seeds_differ():
    first = draw_portrait(0, 0, 0).photo.astype(int)
    for second in (draw_portrait(0, 1, 0), draw_portrait(1, 0, 0), draw_portrait(0, 0, 1)):
        assert np.abs(first - second.photo).mean() > 10


@pytest.mark.parametrize("roll", [-25.0, 0.0, 14.0])
def test_roll_turns_the_line_of_the_eyes(roll):
    portrait = draw_portrait(5, 1, roll=roll, yaw=0.0)
    across = portrait.landmarks[1] - portrait.landmarks[0]
    assert np.rad2deg(np.arctan2(across[1], across[0])) == pytest.approx(roll, abs=0.01)
    assert portrait.roll == pytest.approx(roll)


def test_yaw_moves_the_nose_against_the_eyes():
    shift = []
    for yaw in (-25.0, 0.0, 25.0):
        points = draw_portrait(5, 1, roll=0.0, yaw=yaw).landmarks
        shift.append(points[2, 0] - points[:2, 0].mean())
    assert shift[1] == pytest.approx(0, abs=0.5)
    assert shift[0] < -6 and shift[2] > 6 and shift[0] == pytest.approx(-shift[2], abs=0.5)


def test_roll_turns_photo_and_landmarks_together():
    """A rolled photo, rotated back with the true landmarks, is the same face as the upright photo."""
    upright, rolled = (draw_portrait(20, 0, roll=roll, yaw=0.0) for roll in (0.0, 20.0))
    turned = cv2.warpAffine(rolled.photo, similarity(rolled.landmarks, upright.landmarks), (250, 250))
    low, high = upright.landmarks.min(0).astype(int) - 8, upright.landmarks.max(0).astype(int) + 8
    window = (slice(low[1], high[1]), slice(low[0], high[0]))
    a, b = (cv2.GaussianBlur(v[window], (0, 0), 1.5).mean(-1).ravel() for v in (turned, upright.photo))
    assert np.corrcoef(a, b)[0, 1] > 0.9


def test_files_have_lfw_names_and_a_table_of_landmarks(tmp_path: Path):
    ticks = []
    rows = write_portraits(tmp_path / "all", 2, 3, 5, on_photo=lambda: ticks.append(1))
    assert len(ticks) == len(rows) == 6
    names = sorted(p.relative_to(tmp_path / "all").as_posix() for p in (tmp_path / "all").rglob("*.jpg"))
    assert names == [f"person_00{i}/person_00{i}_000{j}.jpg" for i in (0, 1) for j in (1, 2, 3)]
    with (tmp_path / "all" / "landmarks.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["photo"] for row in table] == names
    truth = draw_portrait(1, 2, 5)
    read = np.array([float(table[5][name]) for name in LANDMARK_COLUMNS]).reshape(5, 2)
    np.testing.assert_allclose(read, truth.landmarks, atol=1e-3)
    assert float(table[5]["yaw"]) == pytest.approx(truth.yaw, abs=1e-3)
    photo = decode((tmp_path / "all" / names[5]).read_bytes())
    assert np.abs(photo.astype(int) - truth.photo).mean() < 12

    write_portraits(tmp_path / "part", 1, 3, 5, first_person=1)
    for name in names[3:]:
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "all" / name).read_bytes()


def inner_face(portrait: Portrait) -> np.ndarray:
    """Return grey gradients between the brows and the lower lip, without hair, background and colour."""
    template = np.array([[22, 26], [50, 26], [36, 44], [25, 58], [47, 58]], float)
    crop = cv2.warpAffine(portrait.photo, similarity(portrait.landmarks, template), (72, 80))
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[14:72, 8:64]
    return hog(grey, orientations=8, pixels_per_cell=(8, 8), cells_per_block=(2, 2))


def hair_and_background(portrait: Portrait) -> np.ndarray:
    """Return the mean colours above the forehead and in the upper corners."""
    eyes, mouth = portrait.landmarks[:2].mean(0), portrait.landmarks[3:].mean(0)
    up = (eyes - mouth) / np.linalg.norm(eyes - mouth)
    x, y = (eyes + up * 1.55 * np.linalg.norm(portrait.landmarks[1] - portrait.landmarks[0])).clip(6, 243).astype(int)
    hair = portrait.photo[y - 6 : y + 7, x - 6 : x + 7].mean((0, 1))
    corners = np.concatenate([portrait.photo[:60, :25], portrait.photo[:60, -25:]])
    return np.concatenate([hair, corners.mean((0, 1))])


def pair_auc(features: np.ndarray, people: np.ndarray, shrinkage: float) -> float:
    """Return the AUC of same against different people in the second half, with an LDA fitted on the first half."""
    learn = people < people.max() // 2 + 1
    scaled = (features - features[learn].mean(0)) / (features[learn].std(0) + 1e-6)
    lda = LinearDiscriminantAnalysis(solver="eigen", shrinkage=shrinkage).fit(scaled[learn], people[learn])
    code, who = lda.transform(scaled[~learn]), people[~learn]
    code /= np.linalg.norm(code, axis=1, keepdims=True)
    i, j = np.triu_indices(len(who), 1)
    return float(roc_auc_score(who[i] == who[j], (code[i] * code[j]).sum(1)))


def measure(crowd: list[list[Portrait]]) -> tuple[float, float]:
    flat = [p for person in crowd for p in person]
    people = np.repeat(np.arange(len(crowd)), len(crowd[0]))
    face = pair_auc(np.array([inner_face(p) for p in flat]), people, 0.3)
    return face, pair_auc(np.array([hair_and_background(p) for p in flat]), people, 0.05)


@pytest.mark.slow
def test_people_differ_by_face_and_not_by_hair_and_background():
    face, clue = measure([[draw_portrait(person, photo) for photo in range(PHOTOS)] for person in range(40)])
    assert face > 0.86  # the next slow test learns from more people
    assert clue < 0.84 and clue < face - 0.06, clue


def detect(portraits: list[Portrait]) -> tuple[list[np.ndarray], int]:
    """Return offsets (detected - true) of the faces in the JPEGs, and the number of false detections."""
    from facenet_pytorch import MTCNN

    detector = MTCNN(min_face_size=20, factor=0.85, thresholds=[0.6, 0.7, 0.9], keep_all=True, post_process=False)
    offsets, others = [], 0
    for start in range(0, len(portraits), 30):
        part = portraits[start : start + 30]
        _, _, detections = detector.detect(np.stack([decode(p.jpeg()) for p in part]), landmarks=True)
        for portrait, points in zip(part, detections, strict=True):
            spots = np.zeros((0, 5, 2)) if points is None else np.asarray(points, float).reshape(-1, 5, 2)
            away = spots - portrait.landmarks
            near = np.linalg.norm(away.mean(1), axis=1) < 15
            offsets.extend(away[near][:1])
            others += len(spots) - min(1, int(near.sum()))
    return offsets, others


def test_mtcnn_finds_drawn_faces_and_their_points(crowd):
    portraits = [person[i % PHOTOS] for i, person in enumerate(crowd)][:16]
    offsets, others = detect(portraits)
    assert len(offsets) >= 15 and others <= 1
    assert np.linalg.norm(offsets, axis=-1).mean() < 5


@pytest.mark.slow
def test_quality_of_six_hundred_photos():
    crowd = [[draw_portrait(person, photo) for photo in range(10)] for person in range(60)]
    face, clue = measure(crowd)
    assert face > 0.94 and clue < 0.84
    offsets, others = detect([p for person in crowd for p in person])
    distance = np.linalg.norm(offsets, axis=-1)
    print(f"\nAUC face {face:.3f}, hair and background {clue:.3f}; found {len(offsets)}/600, {others} others")
    print(f"offset mean {distance.mean():.2f}, 95th percentile {np.percentile(distance, 95):.2f} pixels")
    print("mean dx, dy per landmark", np.mean(offsets, axis=0).round(2).tolist())
    assert len(offsets) >= 594 and others <= 12
    assert distance.mean() < 4 and np.percentile(distance, 95) < 9
