from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from collections_of_people import crop, encoded, write_folders, write_insightface

from sfplus.cli.pack import pack
from sfplus.datasets import pack_writer as module
from sfplus.datasets.crops import CropDataset, PackedCrops
from sfplus.datasets.formats import pack as packed
from sfplus.datasets.formats.pack import Pack
from sfplus.datasets.identities import assign_labels
from sfplus.errors import DatasetError, UsageError
from sfplus.images import list_photos

PEOPLE = {"Ben": 3, "Ada": 4, "Cyd": 1}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "BLOCK", 3)
    monkeypatch.setattr(module, "BLOCK", 3)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_equals_the_folder_it_was_made_of(
    tmp_path: Path, small_blocks: None, sfplus: Callable[..., SimpleNamespace]
) -> None:
    source, out = tmp_path / "crops", tmp_path / "crops.pack"
    write_folders(source, PEOPLE)
    before = files(source / "Ada")
    answer = sfplus("pack", source, out)
    assert (answer.code, answer.out) == (0, f"8 crops (12x10) of 3 people (1 with one crop), 0 failed: {out}\n")
    assert files(source / "Ada") == before
    assert sorted(tmp_path.iterdir()) == [source, out]
    _, labels, names = assign_labels(list_photos(source))
    folder = CropDataset([source / name for name in names], labels, 12, 10)
    crops = PackedCrops(out)
    assert crops.people == ["Ada", "Ben", "Cyd"]
    for indices in (np.arange(8), np.array([7, 0, 0, 3])):
        for ours, theirs in zip(crops.batch(indices), folder.batch(indices), strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype
    ours, theirs = crops[5], folder[5]
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert ours[1] == theirs[1]
    assert Pack(out).names == names


def test_packs_of_all_kinds_hold_the_same(tmp_path: Path) -> None:
    """The same pictures as folders, RecordIO, Parquet, and a pack of a pack."""
    pictures = [encoded(crop(seed)) for seed in range(5)]
    owners = [0, 0, 1, 2, 2]
    write_insightface(tmp_path / "train.rec", [pictures[:2], pictures[2:3], pictures[3:]])
    pq.write_table(pa.table({"image": pictures, "label": owners}), tmp_path / "a.parquet")
    for owner, (number, data) in zip(owners, enumerate(pictures), strict=True):
        (tmp_path / "folders" / f"{owner:07d}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "folders" / f"{owner:07d}" / f"{number}.png").write_bytes(data)
    sources = [tmp_path / name for name in ("folders", "train.rec", "a.parquet", "0")]
    for number, source in enumerate(sources):
        assert pack(source, tmp_path / str(number)) == 0
        opened = Pack(tmp_path / str(number))
        np.testing.assert_array_equal(opened.pixels, [crop(seed) for seed in range(5)])
        assert opened.labels.tolist() == owners
        assert opened.people == ["0000000", "0000001", "0000002"]
        assert list(opened.check()) == [5]


def test_again_is_instant_and_other_options_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    (source / "Dan" / "0.png").write_bytes(encoded(crop(0)))
    with pytest.raises(UsageError, match="before it changed"):
        pack(source, out)


@pytest.mark.parametrize("wrong", ["inside", "same", "around", "other files", "a file"])
def test_writes_only_where_nothing_is(tmp_path: Path, wrong: str) -> None:
    source = tmp_path / "all" / "crops"
    write_folders(source, PEOPLE)
    out = {"inside": source / "out", "same": source, "around": tmp_path / "all"}.get(wrong, tmp_path / "out")
    if wrong == "other files":
        out.mkdir()
        (out / "mine").touch()
    elif wrong == "a file":
        out.touch()
    with pytest.raises(UsageError, match=r"SOURCE overlap|contains other files"):
        pack(source, out)


@pytest.mark.parametrize("what", ["files", "a state", "other state", "a file", "a link"])
def test_never_deletes_what_it_did_not_make(tmp_path: Path, what: str) -> None:
    write_folders(tmp_path / "crops", PEOPLE)
    partial = tmp_path / "out.partial"
    mine = tmp_path / "mine" if what == "a link" else partial
    if what == "a file":
        mine.write_text("mine")
    else:
        mine.mkdir()
        (mine / "photo.png").write_text("mine")
        if what.endswith("state"):
            (mine / "state.json").write_text({"a state": "{}", "other state": "[1"}[what])
    if what == "a link":
        partial.symlink_to(mine)
    with pytest.raises(UsageError, match=r"out\.partial: contains other files; choose another OUT"):
        pack(tmp_path / "crops", tmp_path / "out")
    assert (mine if what == "a file" else mine / "photo.png").read_text() == "mine"


@pytest.mark.parametrize("source", ["out.partial", "out.partial/crops", "."])
def test_never_grows_over_its_source(tmp_path: Path, source: str) -> None:
    """`OUT.partial` is the source, holds it or lies in it; even with a state as of an interrupted call."""
    write_folders(tmp_path / source, PEOPLE)
    (tmp_path / "out.partial").mkdir(exist_ok=True)
    (tmp_path / "out.partial" / "state.json").write_text('{"source": "", "options": {}, "version": 1}')
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="SOURCE overlap"):
        pack(tmp_path / source, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_in_its_way(tmp_path: Path) -> None:
    write_folders(tmp_path / "crops", PEOPLE)
    (tmp_path / "out.partial").mkdir()
    assert pack(tmp_path / "crops", tmp_path / "out") == 0


@pytest.mark.parametrize("size", [None, (20, 513)])
def test_photos_are_no_crops(tmp_path: Path, size: tuple[int, int] | None) -> None:
    write_folders(tmp_path / "crops", PEOPLE, 20, 513)
    with pytest.raises(DatasetError, match=r"Ada/0\.png is 20x513 pixels, aligned crops have.*: sfplus align"):
        pack(tmp_path / "crops", tmp_path / "out", size=size)
    write_folders(tmp_path / "crops", {"Dan": 1}, 512, 512)
    assert pack(tmp_path / "crops", tmp_path / "out", size=(512, 512)) == 1
    assert len(Pack(tmp_path / "out")) == 1


def test_memory_does_not_grow_with_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 crops of 786 kB in one block: only those read ahead are in memory."""
    monkeypatch.setattr(module, "_THREADS", 2)
    write_folders(tmp_path / "crops", {"Ada": 50, "Ben": 50}, 2, 2)
    monkeypatch.setattr(module.Record, "decode", lambda record: np.zeros((512, 512, 3), np.uint8))
    tracemalloc.start()
    try:
        pack(tmp_path / "crops", tmp_path / "out")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 20 * 786_432


def test_bad_pictures_are_named_and_the_rest_goes_on(
    tmp_path: Path, small_blocks: None, sfplus: Callable[..., SimpleNamespace]
) -> None:
    source, out = tmp_path / "crops", tmp_path / "crops.pack"
    write_folders(source, PEOPLE)
    (source / "Empty").mkdir()
    (source / "Ada" / "0.png").write_bytes(b"")
    (source / "Ada" / "1.png").write_bytes((source / "Ada" / "1.png").read_bytes()[:60])
    (source / "Ben" / "9.png").symlink_to("gone")
    (source / "stray.png").write_bytes(encoded(crop(0)))
    Path(os.fsdecode(os.fsencode(source) + b"/Ben/\xff.png")).write_bytes(encoded(crop(0)))
    answer = sfplus("pack", source, out)
    assert answer.code == 1
    assert "1 folder contains no photo and is not counted as a person, for example Empty" in answer.err
    assert answer.out.startswith("6 crops (12x10) of 3 people (1 with one crop), 5 failed")
    rows = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert [row["photo"].encode("utf-8", "replace") for row in rows] == [
        b"Ada/0.png", b"Ada/1.png", b"Ben/9.png", b"Ben/?.png", b"stray.png"
    ]  # fmt: skip
    assert {row["stage"] for row in rows} == {"pack"} and all(row["reason"] and row["remedy"] for row in rows)
    assert Pack(out).names == ["Ada/2.png", "Ada/3.png", "Ben/0.png", "Ben/1.png", "Ben/2.png", "Cyd/0.png"]
    assert sum(Pack(out).check()) == 6


def test_crops_of_another_size(tmp_path: Path) -> None:
    write_folders(tmp_path / "crops", PEOPLE)
    (tmp_path / "crops" / "Ben" / "1.png").write_bytes(encoded(crop(0, 9, 8)))
    with pytest.raises(DatasetError, match=r"Ben/1\.png is 9x8 pixels, the crops before it are 12x10 .* --size 12x10"):
        pack(tmp_path / "crops", tmp_path / "a")
    assert pack(tmp_path / "crops", tmp_path / "a", size=(12, 10)) == 1
    assert len(Pack(tmp_path / "a")) == 7
    assert "is 9x8 pixels, not 12x10 pixels" in (tmp_path / "a" / "failures.jsonl").read_text()
    with pytest.raises(DatasetError, match=r"none of its crops can be used; the first: Ada/0\.png is 12x10"):
        pack(tmp_path / "crops", tmp_path / "b", size=(99, 99))


def test_narrow(tmp_path: Path) -> None:
    write_folders(tmp_path / "crops", {"Ada": 1, "Ben": 1}, 112, 112)
    pack(tmp_path / "crops", tmp_path / "pack", narrow=True)
    np.testing.assert_array_equal(Pack(tmp_path / "pack").pixels[1], crop(100, 112, 112)[:, 8:104])


def test_people_left_out(tmp_path: Path, sfplus: Callable[..., SimpleNamespace]) -> None:
    """By the pack, from a file, or by who trains from it."""
    write_folders(tmp_path / "crops", PEOPLE | {"Dan": 2})
    listed = tmp_path / "out.txt"
    listed.write_text("# in the test set\nBen\n\n  Nobody  \n")
    assert sfplus("pack", tmp_path / "crops", tmp_path / "a", "--exclude", listed).code == 0
    pack(tmp_path / "crops", tmp_path / "b")
    ours, theirs = PackedCrops(tmp_path / "a"), PackedCrops(tmp_path / "b", exclude=["Ben"])
    assert ours.people == theirs.people == ["Ada", "Cyd", "Dan"]
    every = np.arange(7)
    for one, other in zip(ours.batch(every), theirs.batch(every), strict=True):
        np.testing.assert_array_equal(one, other)
    assert ours.digest != theirs.digest != PackedCrops(tmp_path / "b").digest


def test_one_person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folders(tmp_path / "crops", {"Ada": 2})
    assert pack(tmp_path / "crops", tmp_path / "pack") == 0
    assert "contains only one person" in capsys.readouterr().err
    with pytest.raises(DatasetError, match="contains crops of 1 person; training needs at least two people"):
        PackedCrops(tmp_path / "pack")


def test_a_flipped_bit_is_found_and_named(
    tmp_path: Path, small_blocks: None, sfplus: Callable[..., SimpleNamespace]
) -> None:
    write_folders(tmp_path / "crops", PEOPLE)
    out = tmp_path / "pack"
    pack(tmp_path / "crops", out)
    assert sfplus("pack", "--check", out).out.endswith(f"{out}: intact, 8 crops of 3 people\n")
    data = bytearray((out / "crops.u8").read_bytes())
    data[5 * 360 + 17] ^= 4
    (out / "crops.u8").write_bytes(data)
    named = "crop 5 (counted from 0; Ben/1.png) in block 1 was changed: its checksum differs; make it again"
    answer = sfplus("pack", "--check", out)
    assert answer.code == 1 and named in answer.err
    crops = PackedCrops(out)
    crops.batch(np.array([4, 6]))
    with pytest.raises(DatasetError) as error:
        crops.batch(np.array([0, 5]))
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crops.u8", r"crops\.u8: has 2,870 bytes, not 2,880"),
        ("index.parquet", r"index\.parquet: was changed"),
        ("people.parquet", r"people\.parquet: was changed"),
        ("manifest.json", r"manifest\.json: is not the manifest of a pack"),
    ],
)
def test_files_cut_short(tmp_path: Path, name: str, message: str) -> None:
    write_folders(tmp_path / "crops", PEOPLE)
    pack(tmp_path / "crops", tmp_path / "pack")
    path = tmp_path / "pack" / name
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DatasetError, match=message):
        Pack(tmp_path / "pack")
    path.unlink()
    with pytest.raises(DatasetError, match=r"is missing; make it again|is not a finished pack"):
        Pack(tmp_path / "pack")


def test_labels_out_of_range(tmp_path: Path) -> None:
    """A pack that somebody wrote by hand, with digests that are right."""
    write_folders(tmp_path / "crops", PEOPLE)
    pack(tmp_path / "crops", tmp_path / "pack")
    manifest = json.loads((tmp_path / "pack" / "manifest.json").read_text())
    index = tmp_path / "pack" / "index.parquet"
    table = pq.read_table(index)
    pq.write_table(table.set_column(1, "label", pa.array([0, 1, 2, 3] * 2)), index)
    manifest["tables"]["index.parquet"] = packed.file_digest(index)
    manifest["content"] = packed.content_digest(manifest["sha256"], manifest["tables"])
    (tmp_path / "pack" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DatasetError, match="has labels beyond its 3 people"):
        Pack(tmp_path / "pack")


@pytest.mark.parametrize("size", ["112", "0x5", "axb", "-1x4"])
def test_sizes_that_are_none(tmp_path: Path, size: str, sfplus: Callable[..., SimpleNamespace]) -> None:
    assert sfplus("pack", tmp_path, tmp_path / "out", f"--size={size}").code == 2


def test_out_is_needed(tmp_path: Path, sfplus: Callable[..., SimpleNamespace]) -> None:
    assert sfplus("pack", tmp_path).code == 2


def test_too_small_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folders(tmp_path / "crops", PEOPLE)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=2879))
    with pytest.raises(UsageError, match=r"the pack needs 0.0 GB, the disk has 0.0; free some space"):
        pack(tmp_path / "crops", tmp_path / "pack")


def test_goes_on_after_any_interruption(tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before each picture in turn, the files in the end are those of a run that was not."""
    write_folders(tmp_path / "crops", PEOPLE)
    (tmp_path / "crops" / "Ada" / "2.png").write_bytes(b"no picture")
    pack(tmp_path / "crops", tmp_path / "whole")
    decode = module.Record.decode
    for stop in range(1, 8):
        out, calls = tmp_path / f"stopped {stop}", []

        def interrupted(record: module.Record, calls: list[str] = calls, stop: int = stop) -> np.ndarray:
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


def test_begins_again_when_the_source_changed(
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
def test_killed_before_it_was_moved_into_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: tuple[str, ...]
) -> None:
    """A finished pack that was not moved yet is moved by the next call, which reads no picture."""
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
def test_killed_and_run_again(tmp_path: Path) -> None:
    """kill -9 in the second and the third block; the files in the end are those of an undisturbed run."""
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


def test_spellings_of_a_source_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative, absolute and through a link: the pack is fresh, and an interrupted one goes on."""
    monkeypatch.chdir(tmp_path)
    write_folders(tmp_path / "crops", PEOPLE)
    (tmp_path / "link").symlink_to("crops")
    assert pack(Path("crops"), Path("out")) == 0
    for other in (tmp_path / "crops", Path("link"), Path("crops/../crops"), tmp_path / "link"):
        assert pack(other, Path("out")) == 0


@pytest.mark.parametrize("out", [".", ".."])
def test_out_without_a_name(tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folders(tmp_path / "crops", PEOPLE)
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "below")
    with pytest.raises(UsageError, match=r"does not name a folder; give a new folder"):
        pack(tmp_path / "crops", Path(out))


def test_out_below_a_file(tmp_path: Path) -> None:
    write_folders(tmp_path / "crops", PEOPLE)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file: is not a folder"):
        pack(tmp_path / "crops", tmp_path / "file" / "out")


def test_a_wrong_size_is_said_and_nothing_stays_behind(tmp_path: Path) -> None:
    """Another picture, which fails for another reason, is not blamed."""
    write_folders(tmp_path / "crops", PEOPLE)
    (tmp_path / "crops" / "Ada" / "0.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"the first: Ada/1\.png is 12x10 .*, not 98x99 .*; give another --size"):
        pack(tmp_path / "crops", tmp_path / "out", size=(98, 99))
    assert list(tmp_path.iterdir()) == [tmp_path / "crops"]
