"""`--detector` and `--turned` of the commands that detect faces."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from result_files import read_parquet
from untrained_models import save_untrained

Command = Callable[..., object]

OWN = """
import numpy as np
from sfplus.detection import Faces

class Central:
    def __init__(self, min_face, device): ...

    def detect(self, photos):
        return [self.find(photo) for photo in photos]

    def find(self, photo):
        height, width = photo.shape[:2]
        if photo[:5].mean() < photo[-5:].mean() + 50:  # not upright
            return Faces.empty()
        points = np.array([[30, 30], [60, 30], [45, 45], [33, 60], [57, 60]])
        return Faces([[20, 20, 70, 70]], [0.5], [points])
"""


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an own detector, photos, one of them upside down, and a small model."""
    (tmp_path / "central.py").write_text(OWN)
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for number in range(3):
        pixels = np.sort(rng.integers(0, 256, (90, 100, 3), np.uint8), 0)[::-1]
        Image.fromarray(pixels[::-1] if number == 2 else pixels).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "pairs.csv").write_text("0.png,1.png,1\n0.png,2.png,0\n1.png,2.png,0\n1.png,0.png,1\n")
    save_untrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("central", None)


DETECTOR = ("--detector", "central:Central", "--device", "cpu")


def test_detect_and_align_use_it_and_notice_its_changes(task: Path, sfplus: Command) -> None:
    assert sfplus("detect", "in", "boxes", *DETECTOR).code == 0
    assert read_parquet(task / "boxes/faces.parquet")["photo"] == ["0.png", "1.png"]
    assert sfplus("detect", "in", "boxes", *DETECTOR, "--turned").code == 0
    faces = read_parquet(task / "boxes/faces.parquet")
    assert faces["photo"] == ["0.png", "1.png", "2.png"]
    assert faces["landmarks"][2][:4] == [69, 59, 39, 59]  # the left eye of the upright face is on the right
    (task / "central.py").write_text(OWN.replace("[20, 20, 70, 70]", "[10, 10, 70, 70]"))
    sys.modules.pop("central")
    assert sfplus("detect", "in", "boxes", *DETECTOR, "--turned").code == 0
    assert read_parquet(task / "boxes/faces.parquet")["box"][0] == [10, 10, 70, 70]
    assert sfplus("align", "in", "crops", *DETECTOR).code == 0
    assert sorted(path.name for path in (task / "crops").glob("*.jpg")) == ["0.jpg", "1.jpg"]


@pytest.mark.parametrize("command", ["embed in out", "verify in pairs.csv", "identify in --out out"])
@pytest.mark.parametrize("option", [("--detector", "yunet"), ("--turned",)])
def test_options_of_the_detector_are_refused_for_crops(
    task: Path, sfplus: Command, command: str, option: tuple[str, ...]
) -> None:
    answer = sfplus(*command.split(), "--crops", "--model", "model", *option)
    assert answer.code == 2 and f"{option[0]}: does not go with --crops; leave out one of them" in answer.err


@pytest.mark.slow
def test_embed_group_find_compare_and_verify_take_it(task: Path, sfplus: Command) -> None:
    model = ("--model", "model", *DETECTOR)
    assert sfplus("embed", "in", "features", *model, "--turned").code == 0
    assert read_parquet(task / "features/index.parquet")["photo"] == ["0.png", "1.png", "2.png"]
    assert "similarity" in sfplus("compare", "in/0.png", "in/1.png", *model).out
    answer = sfplus("compare", "in/0.png", "in/2.png", *model)
    assert answer.code == 1 and "in/2.png" in answer.err and "no face" in answer.err
    assert sfplus("compare", "in/0.png", "in/2.png", *model, "--turned").code == 0
    assert sfplus("group", "in", "people", *model).code == 0
    assert read_parquet(task / "people/people.parquet")["photo"] == ["0.png", "1.png"]
    assert "0.png" in sfplus("find", "in/0.png", "people", "--out", "found", *model).out
    answer = sfplus("verify", "in", "pairs.csv", "--folds", "2", "--undetected", "centre-crop", *model)
    assert answer.code == 0, answer.err
    report = json.loads(next((task / "data/runs").glob("*/report.json")).read_text())
    assert "central:Central" in json.dumps(report)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--detector", "retina"], 2, "no detector is called 'retina'; use mtcnn, yunet or package.module:Class"),
        (["--detector", "yunet"], 2, "yunet: is not on this machine; get it first: sfplus models fetch yunet"),
        (["--detector", "gone:Class"], 2, "gone:Class: there is no such module"),
        (["--detector", "central:Gone"], 2, "central has no 'Gone'"),
        (["--detector", "central:Central", "--parity", "matlab"], 2, "parity: matlab is of mtcnn"),
    ],
)
def test_mistakes_give_one_line_before_anything_is_detected(
    task: Path, words: list[str], code: int, message: str, sfplus: Command
) -> None:
    for command in ("detect", "align"):
        answer = sfplus(command, "in", "out", *words, "--device", "cpu")
        assert answer.code == code and message in answer.err and "Traceback" not in answer.err
        assert len([line for line in answer.err.splitlines() if line.startswith("sfplus: ")]) == 1


def test_a_detector_is_no_model(task: Path, sfplus: Command) -> None:
    answer = sfplus("compare", "in/0.png", "in/1.png", "--model", "yunet")
    assert answer.code == 2 and "'yunet' is a detector, not a network; use --detector yunet" in answer.err
