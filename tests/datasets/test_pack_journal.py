"""What a kill, a full disk or somebody else leaves of an unfinished pack never changes the finished one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from collection_writers import write_folders
from hostile_files import WRONG_VALUES, damaged, read_or_refuse
from slow_cases import mostly_slow

from sfplus.cli.pack import pack
from sfplus.datasets import pack_writer
from sfplus.datasets.formats import pack as packed
from sfplus.datasets.formats.pack import Pack
from sfplus.datasets.pack_journal import JOURNAL, read_journal
from sfplus.datasets.records import Record

PEOPLE = {"Ben": 3, "Ada": 4, "Cyd": 1}


@pytest.fixture
def unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An unfinished pack of three blocks, of which only the tables are missing."""
    for module in (packed, pack_writer):
        monkeypatch.setattr(module, "BLOCK", 3)
    write_folders(tmp_path / "crops", PEOPLE)
    (tmp_path / "crops" / "Ada" / "2.png").write_bytes(b"no image")
    pack(tmp_path / "crops", tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pack_writer.PackWriter, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        pack(tmp_path / "crops", tmp_path / "out")
    (tmp_path / "out.partial").rename(tmp_path / "kept")
    return tmp_path


def finish(folder: Path, name: str, data: bytes) -> None:
    """Finish the pack after one of its files was changed; it must be the same as without interruption."""
    for path in ("out", "out.partial"):
        shutil.rmtree(folder / path, ignore_errors=True)
    shutil.copytree(folder / "kept", folder / "out.partial")
    (folder / "out.partial" / name).write_bytes(data)
    if not read_or_refuse(lambda: pack(folder / "crops", folder / "out")):
        contents = [{file.name: file.read_bytes() for file in (folder / path).iterdir()} for path in ("out", "whole")]
        assert contents[0] == contents[1]


@pytest.mark.parametrize("name", mostly_slow([JOURNAL, "state.json", "crops.u8"], ["state.json"]))
def test_damage_never_changes_the_pack(unfinished: Path, name: str) -> None:
    for data in damaged((unfinished / "kept" / name).read_bytes(), 40, 20):
        finish(unfinished, name, data)


@pytest.mark.parametrize(
    "key",
    mostly_slow(["names", "people", "sums", "failures", "size", "next", "sha256", "crc32", "block"], ["names", "next"]),
)
def test_any_value_in_the_journal_never_changes_the_pack(unfinished: Path, key: str) -> None:
    first, *rest = (unfinished / "kept" / JOURNAL).read_bytes().splitlines(keepends=True)
    for value in WRONG_VALUES:
        line = json.loads(first)
        changes = line if key in line else line["block"]
        changes[key] = [value, *changes[key][1:]] if isinstance(changes[key], list) and value else value
        finish(unfinished, JOURNAL, json.dumps(line).encode() + b"\n" + b"".join(rest))
    finish(unfinished, JOURNAL, b"[" * 100_000 + b"\n")
    finish(unfinished, "state.json", b"[" * 100_000)


def test_all_blocks_before_the_damage_are_kept(unfinished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (unfinished / "kept" / JOURNAL).read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    decoded: list[str] = []
    decode = Record.decode
    monkeypatch.setattr(Record, "decode", lambda record, *most: decoded.append(record.name) or decode(record, *most))
    for kept, data in (
        (3, b"".join(lines)),
        (2, lines[0] + lines[1] + lines[2][:-9]),
        (1, lines[0] + lines[2]),
        (0, b""),
    ):
        decoded.clear()
        finish(unfinished, JOURNAL, data)
        assert len(decoded) == 8 - (json.loads(lines[kept - 1])["block"]["next"] if kept else 0)


def test_pixels_that_were_lost_are_packed_again(unfinished: Path) -> None:
    """After a power cut the pixels may be missing, cut short or NUL, although the journal lists them."""
    pixels = (unfinished / "kept" / "crops.u8").read_bytes()
    for data in (b"", pixels[:-1], pixels[: len(pixels) // 2], pixels[:-360] + bytes(360), bytes(len(pixels))):
        shutil.copytree(unfinished / "kept", unfinished / "copy")
        (unfinished / "copy" / "crops.u8").write_bytes(data)
        assert len(read_journal(unfinished / "copy", 8)) < 3
        shutil.rmtree(unfinished / "copy")
        finish(unfinished, "crops.u8", data)


_LIMITED = """
import resource, sys
from sfplus.__main__ import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), -1))
main()
"""


@pytest.mark.slow
def test_a_file_that_may_not_grow_is_one_line_and_the_pack_continues(tmp_path: Path) -> None:
    """The limit is reached in the second block, where a full disk would be."""
    write_folders(tmp_path / "crops", {"Ada": 700, "Ben": 700})

    def run(limit: int) -> subprocess.CompletedProcess[str]:
        arguments = [str(limit), "pack", str(tmp_path / "crops"), str(tmp_path / "out")]
        return subprocess.run(
            [sys.executable, "-c", _LIMITED, *arguments], capture_output=True, text=True, check=False, env=os.environ
        )

    full = run(450_000)
    message = [line for line in full.stderr.splitlines() if line.startswith("sfplus: ")]
    assert full.returncode == 1 and "Traceback" not in full.stderr and len(message) == 1
    assert "cannot be written: File too large; " in message[0]
    assert not (tmp_path / "out").exists()
    again = run(1 << 40)
    assert again.returncode == 0 and "continues an interrupted run" in again.stderr
    assert list(Pack(tmp_path / "out").check()) == [1024, 376]
