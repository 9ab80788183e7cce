"""Equal faults of the arguments have equal exit codes in all commands: 2, one line, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sfplus.datasets.portraits import write_portraits

pytestmark = pytest.mark.slow  # a hundred commands

# command, with the argument under test as "?"
FOLDERS_OR_PHOTOS = ["detect ? out", "align ? out", "embed ? out", "group ? out", "find photo.jpg ? -o out"]
FOLDERS = [
    "verify ? pairs.txt --workspace w",
    "calibrate sphereface10-distilled ? pairs.txt -o out --workspace w",
    "pack ? out",
    "overlap ? people -o out",
    "overlap people ? -o out",
    "pairs ? out",
    "run lfw verify.photos=? verify.pairs=pairs.txt --workspace w",
    "run sphereface-plus-m4 train.photos=? verify.photos=people verify.pairs=pairs.txt --workspace w",
]
PHOTOS = ["compare ? photo.jpg", "compare photo.jpg ?", "find ? people -o out"]
GROUPED = ["app ?"]
FILES = [
    "unpack ? out",
    "models verify ?",
    "verify --features ? --pairs pairs.txt --workspace w",
    "pack people out --exclude ?",
]
MODELS = ["convert ? out", "energy ? -o out", "compare photo.jpg photo.jpg --model ?", "embed people out --model ?"]
RECIPES = [
    "run ?",
    "train ?",
    "finetune ?",
    "sweep ?",
    "status ?",
    "board ?",
    "export ? out",
    "recipes check ?",
    "recipes show ?",
]
RUNS = ["report ? -o out --workspace w"]

CASES = [
    *((words, "nowhere") for words in FOLDERS_OR_PHOTOS + FOLDERS + GROUPED + RUNS),
    *((words, "nowhere.jpg") for words in FOLDERS_OR_PHOTOS + PHOTOS),
    *((words, "nowhere.bin") for words in FILES),
    *((words, "nowhere/model.safetensors") for words in MODELS),
    *((words, "nowhere.yaml") for words in RECIPES),
    *((words, "photo.jpg") for words in FOLDERS + GROUPED + RUNS + MODELS + RECIPES),
    *((words, "people") for words in ["compare ? photo.jpg", "compare photo.jpg ?", *FILES, *RECIPES]),
    *((words, "empty") for words in FOLDERS_OR_PHOTOS + FOLDERS + GROUPED + RUNS + PHOTOS),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    write_portraits(folder / "people", 2, 2, 0)
    photo = next((folder / "people").rglob("*.jpg"))
    (folder / "photo.jpg").write_bytes(photo.read_bytes())
    first, second, *_ = sorted(
        path.relative_to(folder / "people").as_posix() for path in (folder / "people").rglob("*.jpg")
    )
    (folder / "pairs.txt").write_text(f"{first} {second} 1 0\n{second} {first} 0 1\n")
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize(("words", "value"), CASES, ids=lambda value: value.replace(" ", "_").replace("/", "_"))
def test_a_wrong_path_is_misuse_in_every_command(
    words: str, value: str, folder: Path, sfplus: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(path for path in folder.rglob("*"))
    answer = sfplus(*words.replace("?", value).split())
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1), answer
    assert answer.err.startswith("sfplus: ") and value.split("/")[0] in answer.err
    assert sorted(path for path in folder.rglob("*")) == before
