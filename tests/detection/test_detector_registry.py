"""Detectors by name, and those of the user's own, whose results are checked."""

import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfplus import Embedder
from sfplus.detection import Detector, FaceDetector, Faces, TurnedDetector
from sfplus.detection.interface import detect_each
from sfplus.detection.registry import check_detector, create_detector
from sfplus.errors import PhotoError, SfplusError, UsageError
from sfplus.io.tables import Failure, read_json_lines
from sfplus.recipes.recipe import Recipe
from sfplus.recipes.settings.align import crop_steps
from sfplus.recipes.steps import UserCode, UserPhotos

OWN = """
import numpy as np
from sfplus.detection import Faces
from sfplus.errors import PhotoError

class Central:
    def __init__(self, min_face, device):
        self.min_face, self.device = min_face, device

    def detect(self, photos):
        return [self.find(*photo.shape[:2]) for photo in photos]

    def find(self, height, width):
        centre, side = np.array([width, height]) / 2, min(width, height) / 2
        points = np.array([[-.2, -.2], [.2, -.2], [0, 0], [-.15, .2], [.15, .2]]) * side + centre
        return Faces([[*(centre - side / 2), *(centre + side / 2)]], [0.5], [points])

class Answer(Central):
    answer = None
    def detect(self, photos):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

class Short(Answer):
    answer = [Faces.empty()]
class Nothing(Answer):
    answer = None
class Boxes(Answer):
    answer = [Faces.empty(), [[0, 0, 9, 9]]]
class Fails(Answer):
    answer = ValueError("no\\nsuch layer")
class Refuses(Answer):
    answer = PhotoError("is not for me")
class Exits(Answer):
    def detect(self, photos): raise SystemExit(3)
class Overwrites(Answer):
    def detect(self, photos):
        photos[0][:] = 0
class Third(Central):
    wrong = {}
    def find(self, height, width):
        faces = super().find(height, width)
        if height < 22:
            return faces
        values = dict(boxes=faces.boxes, scores=faces.scores, landmarks=faces.landmarks)
        return Faces(**values | self.wrong)
class Low(Third):
    wrong = {"scores": [-0.1]}
class High(Third):
    wrong = {"scores": [55]}
class Inverted(Third):
    wrong = {"boxes": [[9, 9, 3, 12]]}
class Outside(Third):
    wrong = {"boxes": [[30, 0, 40, 9]]}
class Before(Third):
    wrong = {"boxes": [[0, -9, 9, -1]]}
class NotFinite(Third):
    wrong = {"landmarks": np.full((1, 5, 2), np.nan)}
class Raises(Third):
    wrong = {"nose": 3}
class Stops(Third):
    @property
    def wrong(self): raise SystemExit("no licence")
class ExitsAtOnce:
    def __init__(self, min_face, device): raise SystemExit(3)
class WithoutDevice:
    def __init__(self, min_face): ...
class NeedsMore:
    def __init__(self, min_face, device, weights): ...
class WithoutDetect:
    def __init__(self, min_face, device): ...
class Breaks:
    def __init__(self, min_face, device): raise OSError("weights.pt is missing")
number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module `own_detectors` in the current folder."""
    (tmp_path / "own_detectors.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "own_detectors.py"
    sys.modules.pop("own_detectors", None)


def photos(count: int = 2) -> list[np.ndarray]:
    return [np.zeros((20 + number, 30, 3), np.uint8) for number in range(count)]


def test_an_own_detector_takes_photos_in_any_form_and_can_be_pickled(own: Path) -> None:
    detector = create_detector("own_detectors:Central", "cpu", min_face=33)
    assert (detector._detector.min_face, detector._detector.device) == (33, "cpu")
    single, several = detector.detect(photos(1)[0]), detector.detect(iter(photos(3)))
    assert len(single) == 1 and [len(faces) for faces in several] == [1, 1, 1]
    again = pickle.loads(pickle.dumps(detector)).detect(photos(3))
    np.testing.assert_array_equal(again[2].landmarks, several[2].landmarks)
    instance: FaceDetector = detector._detector
    assert len(create_detector(instance, "cpu").detect(photos(1)[0])) == 1


def test_names_and_objects_give_detectors(own: Path) -> None:
    assert type(create_detector(device="cpu")) is Detector
    assert isinstance(create_detector("mtcnn", "cpu", turned=True), TurnedDetector)
    given = Detector(device="cpu")
    assert create_detector(given) is given
    assert create_detector(device="cpu", min_face=40, mtcnn={"parity": "matlab"})._settings["parity"] == "matlab"


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("Short", UsageError, "own_detectors:Short: returned list of 1 for 2 photos; mend its detect method"),
        ("Nothing", UsageError, "own_detectors:Nothing: returned NoneType for 2 photos"),
        ("Boxes", UsageError, "own_detectors:Boxes: returned list for a photo, not Faces"),
        ("Fails", UsageError, "own_detectors:Fails: failed (ValueError: no); mend its detect method"),
        ("Refuses", PhotoError, "is not for me"),
        ("Exits", UsageError, "own_detectors:Exits: failed (SystemExit: 3); mend its detect method"),
        ("Overwrites", UsageError, "own_detectors:Overwrites: failed (ValueError: assignment destination is read-only"),
        ("ExitsAtOnce", UsageError, "own_detectors:ExitsAtOnce: failed (SystemExit: 3); mend this class"),
        ("WithoutDevice", UsageError, "own_detectors:WithoutDevice: does not take 'device'"),
        ("NeedsMore", UsageError, "own_detectors:NeedsMore: needs the option 'weights'"),
        ("WithoutDetect", UsageError, "own_detectors:WithoutDetect: has no method 'detect'"),
        ("Breaks", UsageError, "own_detectors:Breaks: failed (OSError: weights.pt is missing); mend this class"),
        ("Gone", UsageError, "own_detectors has no 'Gone'"),
        ("number", UsageError, "own_detectors:number: is not a function or class"),
    ],
)
def test_mistakes_of_an_own_detector_give_one_line(own: Path, name: str, kind: type[SfplusError], message: str) -> None:
    with pytest.raises(kind) as error:
        create_detector(f"own_detectors:{name}", "cpu").detect(photos())
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Low", "returned the score -0.1, not one from 0 to 1; mend its detect method"),
        ("High", "returned the score 55, not one from 0 to 1"),
        ("Inverted", "returned a box that is not x1 y1 x2 y2: 9, 9, 3, 12"),
        ("Outside", "returned a box that is outside the photo of 30x22: 30, 0, 40, 9"),
        ("Before", "returned a box that is outside the photo of 30x22: 0, -9, 9, -1"),
        ("NotFinite", "failed (Faces.landmarks: holds numbers that are not finite)"),
        ("Raises", "failed (TypeError: "),
        ("Stops", "failed (SystemExit: no licence)"),
    ],
)
def test_a_photo_for_which_an_own_detector_fails_is_named_and_recorded(
    own: Path, name: str, message: str, sfplus: Callable[..., Any]
) -> None:
    detector = create_detector(f"own_detectors:{name}", "cpu", turned=True)
    first, second, third = detect_each(detector, photos(3))
    assert isinstance(first, Faces) and isinstance(second, Faces) and isinstance(third, PhotoError)
    assert f"own_detectors:{name}: {message}" in str(third)
    with pytest.raises(PhotoError, match=f"own_detectors:{name}: "):
        detector.detect(photos(3))
    folder = own.parent / "photos"
    folder.mkdir()
    for index, pixels in enumerate(photos(3)):
        Image.fromarray(pixels).save(folder / f"{index}.png")
    answer = sfplus("detect", folder, own.parent / "out", "--detector", f"own_detectors:{name}")
    assert answer.code == 1, answer.err
    (row,) = read_json_lines(own.parent / "out" / "failures.jsonl", Failure)
    assert row["photo"] == "2.png" and f"own_detectors:{name}: {message.partition(';')[0]}" in row["reason"]


def test_an_own_detector_cannot_change_the_photo_of_the_caller(own: Path) -> None:
    photo = photos(1)[0]
    create_detector("own_detectors:Central", "cpu").detect(photo)
    assert photo.flags.writeable


def test_an_embedder_names_the_photo_for_which_an_own_detector_fails(own: Path) -> None:
    results = list(Embedder(detector="own_detectors:High", device="cpu").stream(photos(3)))
    assert [type(result) for result in results] == [np.ndarray, np.ndarray, PhotoError]
    assert str(results[2]).startswith("photo 2: own_detectors:High: returned the score 55")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("yunnet", "no detector is called 'yunnet'; did you mean 'yunet'?"),
        ("", "use mtcnn, yunet or package.module:Class"),
        ("own.py:Class()", "no detector is called"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    for use in (check_detector, create_detector):
        with pytest.raises(UsageError) as error:
            use(name)
        assert message in str(error.value)


def test_only_detectors_other_than_mtcnn_are_inputs_of_the_stage() -> None:
    """The fingerprints of stages with MTCNN are those of the time when there was no other detector."""

    def detect_step(**settings: object):
        recipe = Recipe.model_validate({"detect": settings})
        return crop_steps(UserPhotos(Path("photos")), recipe.plan_request(), "photos")[0]

    step = detect_step(min_face=30)
    identity = step.stage.identity(step.settings, {})
    assert list(step.inputs) == ["photos"] and identity["version"] == 3
    assert identity["settings"] == {
        "min_face": 30, "factor": 0.85, "thresholds": [0.6, 0.7, 0.9], "mirror_landmarks": True, "parity": "none",
        "choose": "centre",
    }  # fmt: skip
    assert detect_step(detector="central:Central").inputs["detector"] == UserCode("central:Central")
    step = detect_step(detector="yunet", turned=True, min_score=0.8)
    settings = step.stage.identity(step.settings, {})["settings"]
    assert sorted(step.inputs) == ["detector", "photos"]
    assert (settings["detector"], settings["turned"], settings["min_score"]) == ("yunet", True, 0.8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"detector": "retina"}, "no detector is called 'retina'"),
        ({"detector": "yunet", "parity": "matlab"}, "parity: matlab is of mtcnn, not of yunet"),
        ({"min_score": 1.0}, "less than 1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.model_validate({"detect": settings})


def test_faces_of_an_own_detector_must_have_five_landmarks() -> None:
    with pytest.raises(UsageError, match="expected shape"):
        Faces([[0, 0, 9, 9]], [0.5], np.zeros((1, 3, 2)))
