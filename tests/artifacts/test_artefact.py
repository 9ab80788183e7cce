"""Artefacts: their manifest, and the digest of their content."""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from text_stage import run_text_stage

from sfplus.artifacts import file_record
from sfplus.artifacts.artefact import MANIFEST, Artefact
from sfplus.artifacts.context import RunContext
from sfplus.artifacts.file_record import RECORD, digest_all, find_changes, write_record
from sfplus.artifacts.stage import Job, Stage
from sfplus.errors import ArtefactError
from sfplus.io.console import Console
from sfplus.io.files import file_digest


def test_times_do_not_change_the_content(context: RunContext, tmp_path: Path) -> None:
    second = RunContext(tmp_path / "second", Console(quiet=True), "cpu")
    assert run_text_stage(context).content == run_text_stage(second).content
    assert run_text_stage(context, text="y").content != run_text_stage(context).content


def test_checkpoints_are_deleted_once_the_artefact_is_in_place(context: RunContext) -> None:
    def build(job: Job) -> dict[str, Any]:
        (job.folder / "checkpoint-000010").mkdir(exist_ok=True)
        (job.folder / "checkpoint-000010" / "x").write_text(str(time.time()))
        return {}

    artefact = run_text_stage(context, Stage("train", 1, build))
    assert (
        sorted(path.name for path in artefact.folder.iterdir()) == ["files.json", "manifest.json"]
        and artefact.manifest["files"] == 0
    )


# How the file of an artefact may be changed, and what is said about it; "" where nothing is.
def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1])


def change_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "deleted": (Path.unlink, "text is missing"),
    "emptied": (lambda path: path.write_bytes(b""), "text has 0 bytes, not 6"),
    "cut": (cut, "text has 1 bytes, not 6"),
    "longer": (lambda path: path.write_bytes(b"x" * 7), "text has 7 bytes, not 6"),
    "zeros": (lambda path: path.write_bytes(b"\0" * 6), "text was changed"),
    "one bit": (change_a_byte, "text was changed"),
    "touched": (lambda path: os.utime(path, (1, 1)), ""),
    "written again": (lambda path: path.write_bytes(path.read_bytes()), ""),
    "replaced by a folder": (lambda path: (path.unlink(), path.mkdir()), "text"),
}


@pytest.mark.parametrize("earlier_version", [False, True])
@pytest.mark.parametrize("name", CHANGES)
def test_a_damaged_file_is_noticed_when_the_artefact_is_used_and_built_again(
    name: str,
    earlier_version: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    context = RunContext(tmp_path, Console(), "cpu")
    artefact = run_text_stage(context)
    if earlier_version:
        make_earlier_version(artefact.folder)
    change, damage = CHANGES[name]
    change(artefact.folder / "text")
    capsys.readouterr()
    if not damage:
        assert run_text_stage(context).manifest == Artefact.open(artefact.folder).manifest  # type: ignore[union-attr]
        assert "fresh" in capsys.readouterr().err
        (artefact.folder / "manifest.json").touch()  # and it is remembered: the next time nothing is digested
        assert find_changes(artefact.folder) == ""
        return
    built = run_text_stage(context)
    assert built.content == artefact.content and built.folder == artefact.folder and not built.find_damage()
    assert f"{artefact.folder}: is damaged ({'its files were changed' if earlier_version else damage}" in caplog.text
    assert caplog.text.count("it is built again") == 1


def make_earlier_version(folder: Path) -> None:
    """Remove from an artefact what earlier versions of sfplus did not write."""
    (folder / RECORD).unlink()
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["digest"]
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_an_artefact_of_an_earlier_version_is_used_and_its_files_are_recorded(context: RunContext) -> None:
    folder = run_text_stage(context).folder
    make_earlier_version(folder)
    stamp = (folder / "text").stat().st_mtime_ns
    assert run_text_stage(context).folder == folder and (folder / "text").stat().st_mtime_ns == stamp
    assert find_changes(folder) == ""


def test_a_copied_workspace_is_fresh_and_compared_once(
    context: RunContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_text_stage(context).folder
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)  # with new times
    os.utime(copy / "text", ns=(5, 5))
    digested: list[str] = []
    monkeypatch.setattr(file_record, "file_digest", lambda path: digested.append(path.name) or file_digest(path))
    for expected in (["text"], []):
        assert find_changes(copy) == "" and digested == expected
        digested.clear()


def test_what_no_stage_reads_may_change(context: RunContext) -> None:
    folder = run_text_stage(context).folder
    (folder / "tensorboard" / "times").unlink()
    (folder / ".DS_Store").touch()
    artefact = Artefact.open(folder)
    assert artefact and not artefact.find_damage(all_content=True)
    make_earlier_version(folder)
    assert not artefact.find_damage()


def test_a_change_that_keeps_size_and_time_is_found_when_all_content_is_compared(context: RunContext) -> None:
    artefact = run_text_stage(context)
    path = artefact.folder / "text"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    change_a_byte(path)
    os.utime(path, ns=times)
    assert artefact.find_damage() == "" and artefact.find_damage(all_content=True) == "text was changed"


@pytest.mark.parametrize("data", [b"", b"\0" * 50, b"{", b"[]", b"{}", b'{"names": ["x"], "files": []}', b"\xff"])
def test_without_a_readable_record_all_content_is_compared(data: bytes, context: RunContext) -> None:
    artefact = run_text_stage(context)
    (artefact.folder / RECORD).write_bytes(data)
    assert artefact.find_damage() == "" and find_changes(artefact.folder) == ""
    (artefact.folder / RECORD).write_bytes(data)
    (artefact.folder / "text").write_text("junk")
    assert artefact.find_damage() == "its files were changed"


def test_a_forged_record_is_found_when_all_content_is_compared(context: RunContext) -> None:
    artefact = run_text_stage(context)
    (artefact.folder / "text").write_text("junk")
    record = digest_all(artefact.folder, ["text"])
    write_record(artefact.folder, record)
    assert artefact.find_damage(all_content=True) == "files.json was changed"


def test_a_fault_of_the_disk_is_an_error_and_no_damage(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_text_stage(context).folder
    os.utime(folder / "text", (1, 1))

    def fail(path: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(file_record, "file_digest", fail)
    with pytest.raises(ArtefactError, match=r"text: cannot be read: Input/output error; check the disk"):
        run_text_stage(context)
    assert (folder / MANIFEST).is_file()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "", lambda text: "{", lambda text: "[]", lambda text: "{}", lambda text: "\0" * len(text),
        lambda text: text[: len(text) // 2], lambda text: text.replace('"letters": 1', '"letters": 2'),
        lambda text: text.replace('"stage": "write"', '"stage": 3'), lambda text: "[" * 100_000,
        lambda text: text.replace('"letters": 1', f'"letters": {"9" * 5000}'),
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_reported_in_one_line_and_the_artefact_built_again(
    change: Callable[[str], str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = RunContext(tmp_path, Console(), "cpu")
    artefact = run_text_stage(context)
    (artefact.folder / MANIFEST).write_text(change((artefact.folder / MANIFEST).read_text()))
    assert run_text_stage(context).content == artefact.content
    (line,) = [record.getMessage() for record in caplog.records if "built again" in record.getMessage()]
    assert "its manifest is damaged (" in line


def test_the_manifest_is_readable_json(context: RunContext) -> None:
    text = (run_text_stage(context).folder / MANIFEST).read_text()
    assert json.loads(text)["stage"] == "write" and text.count("\n") > 10
