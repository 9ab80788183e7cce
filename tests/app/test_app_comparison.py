"""The faces of a photo as the page gets them, and the decision in plain words."""

from __future__ import annotations

import base64
import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfplus.app.comparison import Comparison, describe_rarity, encode_feature
from sfplus.embedded_faces import EmbeddedFaces
from sfplus.embedder import Embedder
from sfplus.errors import UsageError
from sfplus.images import read_photo
from sfplus.verification.decision import DecisionRule


def test_every_face_has_a_box_a_crop_and_a_feature_and_the_chosen_one_is_marked(
    comparison: Comparison, two_faces: Path
) -> None:
    photo = read_photo(two_faces)
    answer = comparison.examine(photo)
    faces = comparison.embedder.faces(photo)
    assert len(answer["faces"]) == len(faces) == 2 and answer["chosen"] in (0, 1)
    assert (answer["width"], answer["height"]) == (photo.shape[1], photo.shape[0])
    for face, box, feature in zip(answer["faces"], faces.boxes, faces.features, strict=True):
        left, top, width, height = face["box"]
        scale = np.array([photo.shape[1], photo.shape[0]] * 2)
        corners = np.array([left, top, left + width, top + height]) * scale - (0, 0, 1, 1)
        np.testing.assert_allclose(corners, np.clip(box, 0, scale - 1), atol=1e-3)
        np.testing.assert_array_equal(comparison.decode_feature(face["feature"]), feature)
        assert face["crop"].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize("rule", ["largest", "confident"])
def test_the_face_that_is_used_at_first_follows_the_rule(rule: str, decided_model: Path, two_faces: Path) -> None:
    comparison = Comparison(Embedder(decided_model, "cpu"), rule)
    photo = read_photo(two_faces)
    used = comparison.embedder.features(comparison.embedder.faces(photo, choose=rule).crops)[0]
    answer = comparison.examine(photo)
    np.testing.assert_array_equal(comparison.decode_feature(answer["faces"][answer["chosen"]]["feature"]), used)


def test_a_photo_without_a_face_has_none(comparison: Comparison) -> None:
    answer = comparison.examine(np.full((300, 200, 3), 128, np.uint8))
    assert answer["faces"] == [] and answer["chosen"] is None


def test_large_photos_are_sent_smaller(comparison: Comparison) -> None:
    answer = comparison.examine(np.full((100, 3000, 3), 128, np.uint8))
    with Image.open(io.BytesIO(base64.b64decode(answer["image"].split(",")[1]))) as image:
        assert image.size == (1024, 34)


def test_one_thread_at_a_time_uses_the_model(
    comparison: Comparison, two_faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, faces, running, most = read_photo(two_faces), comparison.embedder.faces, [], []

    def watch(photo: np.ndarray) -> EmbeddedFaces:  # the modes of a network are those of all threads
        running.append(1)
        most.append(len(running))
        time.sleep(0.02)
        found = faces(photo)
        running.pop()
        return found

    monkeypatch.setattr(comparison.embedder, "faces", watch)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(comparison.examine, [photo] * 4))
    assert all(answer == answers[0] for answer in answers) and most == [1] * 4


def test_two_faces_are_decided_at_the_threshold_and_at_a_far(comparison: Comparison) -> None:
    same = comparison.decide(np.ones(8, np.float32), np.ones(8, np.float32))
    assert (same.headline, same.same) == ("Same person", True)
    assert same.details == [
        "Similarity 1.000, decided at 0.250, the threshold on 200 pairs of pairs.txt, "
        "with an accuracy of 90.00 % (sphereface protocol)."
    ]
    assert same.plot.startswith("<svg") or "<svg" in same.plot
    other = comparison.decide(np.ones(8, np.float32), -np.ones(8, np.float32), 0.01)
    assert (other.headline, other.same) == ("Different people", False)
    assert "Similarity −1.000, decided at 0.980, FAR 0.01: 1 of 100 pairs" in other.details[0]
    assert comparison.fars == [0.1, 0.01]
    with pytest.raises(UsageError, match=r"100 pairs of different people cannot resolve a rate below 0.01"):
        comparison.decide(np.ones(8, np.float32), np.ones(8, np.float32), 0.001)


def test_a_model_without_a_threshold_gives_the_similarity(untrained_app_model: Path) -> None:
    comparison = Comparison(Embedder(untrained_app_model, "cpu"))
    verdict = comparison.decide(np.ones(8, np.float32), np.ones(8, np.float32))
    assert verdict.headline.startswith("Similarity 1.000") and verdict.same is None and verdict.plot == ""
    assert "has no threshold to decide at" in verdict.details[0] and comparison.fars == []


@pytest.mark.parametrize(
    ("impostors", "mates", "sentence"),
    [
        (0, 2700, "Fewer than 1 in 3,000 pairs of different people looks at least this alike; of the same person, 9 in "
         "10 do."),
        (38, 3000, "1 in 79 pairs of different people looks at least this alike; of the same person, all 3,000 do."),
        (7, 0, "1 in 430 pairs of different people looks at least this alike; of the same person, fewer than 1 in "
         "3,000 does."),
        (1500, 2986, "5 in 10 pairs of different people look at least this alike; of the same person, all but 1 in 210 "
         "do."),
        (3000, 3, "All 3,000 pairs of different people look at least this alike; of the same person, 1 in 1,000 does."),
    ],
)  # fmt: skip
def test_how_rare_a_similarity_is_in_words(impostors: int, mates: int, sentence: str) -> None:
    different, same = (np.arange(3000) >= 3000 - count for count in (impostors, mates))
    rule = DecisionRule(np.zeros(2, np.float32), same.astype(np.float32), different.astype(np.float32), {})
    assert describe_rarity(rule, 0.5) == sentence


def test_a_model_exported_without_scores_says_nothing_about_rarity() -> None:
    empty = np.zeros(0, np.float32)
    assert describe_rarity(DecisionRule(empty, empty, empty, {}), 0.5) == ""


@pytest.mark.parametrize(
    "text",
    ["", "x", "é", "AAAA", "A" * 9999, encode_feature(np.zeros(8, np.float32)),
     encode_feature(np.array([np.nan] * 8, np.float32)), encode_feature(np.array([np.inf] * 8, np.float32)),
     encode_feature(np.ones(9, np.float32))],
)  # fmt: skip
def test_what_is_not_a_feature_of_the_model_is_refused(text: str, comparison: Comparison) -> None:
    with pytest.raises(UsageError, match="the face: is not a feature of this model; choose the photo again"):
        comparison.decode_feature(text)


def test_a_similarity_that_is_not_a_number_is_no_decision(comparison: Comparison) -> None:
    with pytest.raises(UsageError, match="the similarity is not a number"):
        comparison.decide(np.zeros(8, np.float32), np.ones(8, np.float32))
