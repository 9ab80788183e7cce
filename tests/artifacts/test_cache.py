import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from sfplus.artifacts.artefact import MANIFEST, Artefact
from sfplus.artifacts.cache import is_locked, run_stage
from sfplus.artifacts.context import RunContext
from sfplus.artifacts.stage import Job, Stage, partial_folder
from sfplus.errors import ArtefactError
from sfplus.io.console import Console
from sfplus.io.files import digest_json


class Settings(BaseModel):
    text: str = "x"


class Words:
    def __init__(self, content: str = "words") -> None:
        self.content = content

    def describe(self) -> str:
        return self.content


def _write(job: Job) -> dict[str, Any]:
    (job.folder / "text").write_text(job.settings.text + job.inputs["words"].content)
    (job.folder / "tensorboard").mkdir(exist_ok=True)
    (job.folder / "tensorboard" / "times").write_text(str(time.time()))
    return {"letters": len(job.settings.text)}


STAGE = Stage("write", 1, _write)


@pytest.fixture
def run(tmp_path: Path) -> RunContext:
    return RunContext(tmp_path, Console(quiet=True), "cpu")


def make(run: RunContext, stage: Stage = STAGE, text: str = "x", words: str = "words") -> Artefact:
    return run_stage(stage, Settings(text=text), {"words": Words(words)}, run)


def test_an_artefact_says_what_it_was_made_from(run: RunContext) -> None:
    manifest = make(run).manifest
    assert manifest["settings"] == {"text": "x"} and manifest["inputs"] == {"words": "words"}
    assert manifest["counts"] == {"letters": 1} and manifest["files"] == 1 and manifest["bytes"] == 6
    assert manifest["device"].startswith("cpu") and manifest["versions"]["torch"][0].isdigit()


def test_a_second_run_is_served_from_the_cache(run: RunContext) -> None:
    first = make(run)
    stamp = (first.folder / "text").stat().st_mtime_ns
    assert make(run).folder == first.folder and (first.folder / "text").stat().st_mtime_ns == stamp


def test_settings_inputs_and_version_each_change_the_fingerprint(run: RunContext) -> None:
    folders = {
        make(run).folder, make(run, text="y").folder, make(run, words="other").folder,
        make(run, Stage("write", 2, _write)).folder,
    }  # fmt: skip
    assert len(folders) == 4


def test_times_are_left_out_of_the_content(run: RunContext, tmp_path: Path) -> None:
    other = RunContext(tmp_path / "other", Console(quiet=True), "cpu")
    assert make(run).content == make(other).content
    assert make(run, text="y").content != make(run).content


def test_a_failing_stage_leaves_no_artefact_and_is_resumed(run: RunContext) -> None:
    seen = []

    def build(job: Job) -> dict[str, Any]:
        seen.append((job.folder / "half").exists())
        (job.folder / "half").write_text("")
        if len(seen) == 1:
            raise RuntimeError("killed")
        return {}

    stage = Stage("flaky", 1, build)
    with pytest.raises(RuntimeError):
        make(run, stage)
    folder = run.artefact_folder("flaky", digest_json(stage.identity(Settings(), {"words": Words()})))
    assert Artefact.open(folder) is None and partial_folder(folder).is_dir()
    make(run, stage)
    assert seen == [False, True] and not partial_folder(folder).exists()


def test_what_a_kill_left_behind_does_not_change_the_content(run: RunContext, tmp_path: Path) -> None:
    clean = make(RunContext(tmp_path / "clean", Console(quiet=True), "cpu")).content
    folder = run.artefact_folder("write", digest_json(STAGE.identity(Settings(), {"words": Words()})))
    partial_folder(folder).mkdir(parents=True)
    (partial_folder(folder) / ".0123abcd.part").write_text("half")
    folder.mkdir()
    (folder / "without a manifest").write_text("")
    made = make(run)
    assert made.content == clean and sorted(p.name for p in made.folder.iterdir()) == [
        "manifest.json",
        "tensorboard",
        "text",
    ]


def test_checkpoints_go_when_the_artefact_is_in_place(run: RunContext) -> None:
    def build(job: Job) -> dict[str, Any]:
        (job.folder / "checkpoint-000010").mkdir(exist_ok=True)
        (job.folder / "checkpoint-000010" / "x").write_text(str(time.time()))
        return {}

    made = make(run, Stage("train", 1, build))
    assert [p.name for p in made.folder.iterdir()] == ["manifest.json"] and made.manifest["files"] == 0


def test_a_damaged_manifest_is_an_error_with_a_remedy(run: RunContext) -> None:
    folder = make(run).folder
    for text in ("{", "[]", "{}"):
        (folder / MANIFEST).write_text(text)
        with pytest.raises(ArtefactError, match="delete this folder"):
            make(run)


def test_two_runs_at_once_make_one_artefact_and_one_says_that_it_waits(run: RunContext, capfd: Any) -> None:
    built = []

    def build(job: Job) -> dict[str, Any]:
        built.append(threading.get_ident())
        time.sleep(0.5)
        return {}

    stage = Stage("slow", 1, build)
    runs = [RunContext(run.workspace, Console(), "cpu") for _ in range(2)]
    threads = [threading.Thread(target=make, args=(one, stage)) for one in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1 and capfd.readouterr().err.count("another run is working on this") == 1


def test_a_lock_dies_with_its_process(run: RunContext) -> None:
    folder = run.artefact_folder("x", "f" * 64)
    folder.parent.mkdir(parents=True)
    name = f"{folder}.lock"
    code = f"import filelock as f, time; k = f.FileLock({name!r}); k.acquire(); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert is_locked(folder)
        process.kill()
        process.wait()
    assert not is_locked(folder)


def test_manifest_is_json_that_a_person_can_read(run: RunContext) -> None:
    text = (make(run).folder / MANIFEST).read_text()
    assert json.loads(text)["stage"] == "write" and text.count("\n") > 10
