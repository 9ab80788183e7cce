"""The stage cache: fingerprints, interrupted stages, locks."""

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from text_stage import STAGE, TextInput, TextSettings, run_text_stage, write_text

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.cache import is_locked, open_earlier
from sfplus.artifacts.context import RunContext
from sfplus.artifacts.file_record import read_record
from sfplus.artifacts.stage import Job, Stage, partial_folder, parts_folder
from sfplus.errors import ArtefactError, DatasetError, NoUsablePhotoError, PhotoError
from sfplus.io.console import Console
from sfplus.io.files import digest_json


def test_the_manifest_states_settings_inputs_counts_and_versions(context: RunContext) -> None:
    manifest = run_text_stage(context).manifest
    assert manifest["settings"] == {"text": "x"} and manifest["inputs"] == {"words": "words"}
    assert manifest["counts"] == {"letters": 1} and manifest["files"] == 1 and manifest["bytes"] == 6
    assert manifest["device"].startswith("cpu") and manifest["versions"]["torch"][0].isdigit()


def test_a_second_run_is_served_from_the_cache(context: RunContext) -> None:
    first = run_text_stage(context)
    stamp = (first.folder / "text").stat().st_mtime_ns
    assert run_text_stage(context).folder == first.folder and (first.folder / "text").stat().st_mtime_ns == stamp


def test_settings_inputs_and_version_each_change_the_fingerprint(context: RunContext) -> None:
    folders = {
        run_text_stage(context).folder, run_text_stage(context, text="y").folder,
        run_text_stage(context, words="letters").folder,
        run_text_stage(context, Stage("write", 2, write_text)).folder,
    }  # fmt: skip
    assert len(folders) == 4


def test_a_failed_stage_leaves_no_artefact_and_is_resumed(context: RunContext) -> None:
    resumed = []

    def build(job: Job) -> dict[str, Any]:
        resumed.append((job.folder / "half").exists())
        (job.folder / "half").write_text("")
        if len(resumed) == 1:
            raise RuntimeError("killed")
        return {}

    stage = Stage("flaky", 1, build)
    with pytest.raises(RuntimeError):
        run_text_stage(context, stage)
    identity = stage.identity(TextSettings(), {"words": TextInput()})
    folder = context.artefact_folder("flaky", digest_json(identity))
    assert Artefact.open(folder) is None and partial_folder(folder).is_dir()
    run_text_stage(context, stage)
    assert resumed == [False, True] and not partial_folder(folder).exists()


@pytest.mark.parametrize(
    ("error", "writes", "parts", "resumes"),
    [
        (NoUsablePhotoError("no photo gave a crop"), True, True, False),  # the work was done, without a result
        (DatasetError("training needs at least two people"), False, False, False),  # it had not begun
        (DatasetError("the disk is full"), True, False, True),
        (PhotoError("cannot be read"), False, True, True),
        (RuntimeError("killed"), False, False, True),
    ],
)
def test_only_a_run_that_was_interrupted_is_continued(
    error: Exception, writes: bool, parts: bool, resumes: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(job: Job) -> dict[str, Any]:
        if writes:
            (job.folder / "half").write_text("")
        if parts:
            job.parts.mkdir(exist_ok=True)
        raise error

    stage, context = Stage("flaky", 1, build), RunContext(tmp_path, Console(), "cpu")
    for again in (False, True):
        with pytest.raises(type(error)):
            run_text_stage(context, stage)
        assert ("interrupted" in capsys.readouterr().err) == (again and (writes or parts) and resumes)
    identity = stage.identity(TextSettings(), {"words": TextInput()})
    folder = partial_folder(context.artefact_folder("flaky", digest_json(identity)))
    assert folder.exists() == resumes and folder.with_suffix(".parts").exists() == (resumes and parts)


def test_leftovers_of_a_killed_run_do_not_change_the_content(context: RunContext, tmp_path: Path) -> None:
    clean = run_text_stage(RunContext(tmp_path / "clean", Console(quiet=True), "cpu")).content
    identity = STAGE.identity(TextSettings(), {"words": TextInput()})
    folder = context.artefact_folder("write", digest_json(identity))
    partial_folder(folder).mkdir(parents=True)
    (partial_folder(folder) / ".0123456789abcdef.part").write_text("half")
    folder.mkdir()
    (folder / "without a manifest").write_text("")
    artefact = run_text_stage(context)
    assert artefact.content == clean
    assert sorted(path.name for path in artefact.folder.iterdir()) == [
        "files.json",
        "manifest.json",
        "tensorboard",
        "text",
    ]


def test_what_a_run_killed_after_its_artefact_was_in_place_left_beside_it_is_deleted(context: RunContext) -> None:
    folder = run_text_stage(context).folder
    for leftover in (parts_folder(folder), folder / "checkpoint-000002"):
        leftover.mkdir()
        (leftover / "000000.jsonl").write_text("{}")
    assert run_text_stage(context).folder == folder
    assert not parts_folder(folder).exists() and not (folder / "checkpoint-000002").exists()


def test_of_two_simultaneous_runs_one_builds_and_the_other_reports_that_it_waits(
    context: RunContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sfplus")
    builders = []

    def build(job: Job) -> dict[str, Any]:
        builders.append(threading.get_ident())
        time.sleep(0.5)
        return {}

    stage = Stage("slow", 1, build)
    contexts = [RunContext(context.workspace, Console(), "cpu") for _ in range(2)]
    threads = [threading.Thread(target=run_text_stage, args=(context_, stage)) for context_ in contexts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builders) == 1 and caplog.text.count("another run is working on this") == 1


def test_a_lock_is_released_when_its_process_is_killed(context: RunContext) -> None:
    folder = context.artefact_folder("x", "f" * 64)
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


def test_an_earlier_artefact_that_cannot_be_read_counts_as_none(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_text_stage(context).folder
    assert open_earlier(folder)

    def fail(*_: Any, **__: Any) -> None:
        raise ArtefactError("cannot be read", where=folder)

    monkeypatch.setattr("sfplus.artifacts.artefact.find_changes", fail)
    assert open_earlier(folder) is None


def test_counts_with_keys_that_are_numbers_stay_fresh(context: RunContext) -> None:
    stage = Stage("counts", 1, lambda job: {"pairs": {10: 1, 2: 3}})
    folder = run_text_stage(context, stage).folder
    assert Artefact.open(folder)


def test_a_record_may_be_larger_than_a_file_of_others(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_text_stage(context).folder
    monkeypatch.setenv("SFPLUS_MAX_JSON_BYTES", "10")
    assert read_record(folder)
