from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from collection_writers import encode, random_crop, write_folders

from sfplus.cli.pack import pack
from sfplus.datasets import pack_writer as module
from sfplus.datasets.formats import pack as packed
from sfplus.datasets.formats.pack import Pack
from sfplus.errors import DatasetError, UsageError

PEOPLE = {"Ben": 3, "Ada": 4, "Cyd": 1}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "BLOCK", 3)
    monkeypatch.setattr(module, "BLOCK", 3)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_same_options_are_fresh_and_other_options_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "crops", tmp_path / "crops.pack"
    write_folders(source, PEOPLE)
    pack(source, out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert pack(source, out) == 0
    assert "fresh" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(
        UsageError, match="is a pack of another source, of this source before it changed, or with other"
    ):
        pack(source, out, exclude=["Ben"])
    (source / "Dan").mkdir()
    (source / "Dan" / "0.png").write_bytes(encode(random_crop(0)))
    with pytest.raises(UsageError, match="before it changed"):
        pack(source, out)


@pytest.mark.parametrize("case", ["inside", "same", "around", "other files", "a file"])
def test_out_must_be_new_and_must_not_overlap_the_source(tmp_path: Path, case: str) -> None:
    source = tmp_path / "all" / "crops"
    write_folders(source, PEOPLE)
    out = {"inside": source / "out", "same": source, "around": tmp_path / "all"}.get(case, tmp_path / "out")
    if case == "other files":
        out.mkdir()
        (out / "mine").touch()
    elif case == "a file":
        out.touch()
    with pytest.raises(UsageError, match=r"SOURCE overlap|contains other files"):
        pack(source, out)


@pytest.mark.parametrize("case", ["files", "a state", "other state", "a file", "a link"])
def test_files_of_the_user_are_never_deleted(tmp_path: Path, case: str) -> None:
    write_folders(tmp_path / "crops", PEOPLE)
    partial = tmp_path / "out.partial"
    user_files = tmp_path / "user" if case == "a link" else partial
    if case == "a file":
        user_files.write_text("mine")
    else:
        user_files.mkdir()
        (user_files / "photo.png").write_text("mine")
        if case.endswith("state"):
            (user_files / "state.json").write_text({"a state": "{}", "other state": "[1"}[case])
    if case == "a link":
        partial.symlink_to(user_files)
    with pytest.raises(UsageError, match=r"out\.partial: contains other files; choose another OUT"):
        pack(tmp_path / "crops", tmp_path / "out")
    assert (user_files if case == "a file" else user_files / "photo.png").read_text() == "mine"


@pytest.mark.parametrize("source", ["out.partial", "out.partial/crops", "."])
def test_partial_folder_must_not_overlap_the_source(tmp_path: Path, source: str) -> None:
    """`OUT.partial` is, contains or is inside the source, also if it has the state of an interrupted call."""
    write_folders(tmp_path / source, PEOPLE)
    (tmp_path / "out.partial").mkdir(exist_ok=True)
    (tmp_path / "out.partial" / "state.json").write_text('{"source": "", "options": {}, "version": 1}')
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="SOURCE overlap"):
        pack(tmp_path / source, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_empty_partial_folder_is_used(tmp_path: Path) -> None:
    write_folders(tmp_path / "crops", PEOPLE)
    (tmp_path / "out.partial").mkdir()
    assert pack(tmp_path / "crops", tmp_path / "out") == 0


def test_resumed_pack_equals_an_uninterrupted_one(
    tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is interrupted before each image in turn."""
    write_folders(tmp_path / "crops", PEOPLE)
    (tmp_path / "crops" / "Ada" / "2.png").write_bytes(b"no image")
    pack(tmp_path / "crops", tmp_path / "whole")
    decode = module.Record.decode
    for stop in range(1, 8):
        out, calls = tmp_path / f"stopped {stop}", []

        def interrupted(
            record: module.Record, inspect: object, calls: list[str] = calls, stop: int = stop
        ) -> np.ndarray:
            calls.append(record.name)
            if len(calls) == stop:
                raise KeyboardInterrupt
            return decode(record)

        monkeypatch.setattr(module.Record, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pack(tmp_path / "crops", out)
        assert not out.exists()
        partial = tmp_path / f"stopped {stop}.partial"
        with (partial / "crops.u8").open("ab") as file:
            file.write(b"half a crop")  # what kill -9 leaves
        with (partial / "journal.jsonl").open("a") as text:
            text.write('{"rows": [{"na')
        monkeypatch.setattr(module.Record, "decode", decode)
        assert pack(tmp_path / "crops", out) == 1
        assert files(out) == files(tmp_path / "whole")
        assert not partial.exists()


def test_starts_again_when_the_source_changed(
    tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folders(tmp_path / "crops", PEOPLE)
    monkeypatch.setattr(module.PackWriter, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pack(tmp_path / "crops", tmp_path / "out")
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "crops" / "Ada")
    pack(tmp_path / "crops", tmp_path / "out")
    assert len(Pack(tmp_path / "out")) == 4


@pytest.mark.parametrize("kept", [(), ("state.json",), ("journal.jsonl",), ("state.json", "journal.jsonl")])
def test_finished_pack_is_moved_into_place_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: tuple[str, ...]
) -> None:
    """The next call moves the finished pack without reading an image."""
    write_folders(tmp_path / "crops", PEOPLE)
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, to: interrupt() if path.is_dir() else replace(path, to))
    with pytest.raises(KeyboardInterrupt):
        pack(tmp_path / "crops", tmp_path / "out")
    monkeypatch.undo()
    pack(tmp_path / "crops", tmp_path / "whole")
    state = Pack(tmp_path / "whole").manifest["state"]
    for name in kept:
        (tmp_path / "out.partial" / name).write_text(json.dumps(state) if name == "state.json" else "")
    monkeypatch.setattr(module.Record, "decode", lambda record: pytest.fail("began again"))
    assert pack(tmp_path / "crops", tmp_path / "out") == 0
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert not (tmp_path / "out.partial").exists()


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_resumes_after_kill_9(tmp_path: Path) -> None:
    """kill -9 in the second and the third block; the final files are those of an uninterrupted call."""
    write_folders(tmp_path / "crops", {f"person {i:03d}": 60 for i in range(40)}, 112, 96)
    pack(tmp_path / "crops", tmp_path / "whole")
    command = [sys.executable, "-m", "sfplus", "pack", str(tmp_path / "crops"), str(tmp_path / "out")]
    journal = tmp_path / "out.partial" / "journal.jsonl"
    for block in range(2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > block):
            time.sleep(0.002)
        time.sleep(0.05 * block)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "out").exists()
    subprocess.run(command, check=True)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_all_paths_of_a_source_are_the_same_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack is fresh for relative and absolute paths and for links."""
    monkeypatch.chdir(tmp_path)
    write_folders(tmp_path / "crops", PEOPLE)
    (tmp_path / "link").symlink_to("crops")
    assert pack(Path("crops"), Path("out")) == 0
    for path in (tmp_path / "crops", Path("link"), Path("crops/../crops"), tmp_path / "link"):
        assert pack(path, Path("out")) == 0


@pytest.mark.parametrize("out", [".", ".."])
def test_out_must_name_a_folder(tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folders(tmp_path / "crops", PEOPLE)
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "below")
    with pytest.raises(UsageError, match=r"does not name a folder; give a new folder"):
        pack(tmp_path / "crops", Path(out))


def test_out_below_a_file_is_refused(tmp_path: Path) -> None:
    write_folders(tmp_path / "crops", PEOPLE)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file: is not a folder"):
        pack(tmp_path / "crops", tmp_path / "file" / "out")


def test_wrong_size_is_reported_and_leaves_no_files(tmp_path: Path) -> None:
    """The message names an image of the wrong size and not one that fails for another reason."""
    write_folders(tmp_path / "crops", PEOPLE)
    (tmp_path / "crops" / "Ada" / "0.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"the first: Ada/1\.png is 12x10 .*, not 98x99 .*; give another --size"):
        pack(tmp_path / "crops", tmp_path / "out", size=(98, 99))
    assert list(tmp_path.iterdir()) == [tmp_path / "crops"]
