"""Shared work: every item is processed exactly once, also when processes are killed or join later."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from sfplus.artifacts.artefact import MANIFEST
from sfplus.artifacts.context import RunContext
from sfplus.artifacts.stage import Job, partial_folder
from sfplus.artifacts.work_sharing import SharedWork
from sfplus.errors import ArtefactError
from sfplus.io.console import Console

ITEMS = [f"photo {index}" for index in range(11)]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    console = Console(quiet=True)
    context = RunContext(tmp_path, console)
    with console.progress("work", resumed=False) as progress:
        return Job(None, {}, partial_folder(tmp_path / "abc"), context.with_progress(progress))


def process(work: SharedWork, max_parts: int = 99) -> list[str]:
    """Take items one by one, finish at most `max_parts` parts, and return the items of the finished parts."""
    finished: list[str] = []
    for items in work.rounds():
        pending: list[str] = []
        last = None
        for part, item in items:
            if last not in (None, part):
                work.finish(last, [{"item": item} for item in pending])
                finished += pending
                max_parts, pending = max_parts - 1, []
            if not max_parts:
                return finished
            last, pending = part, [*pending, item]
        if last is not None:
            work.finish(last, [{"item": item} for item in pending])
            finished += pending
    return finished


def test_one_process_finishes_all_items_once_and_in_order(job: Job) -> None:
    with SharedWork(job, ITEMS, 4, "photos") as work:
        assert process(work) == ITEMS and [row["item"] for row in work.rows()] == ITEMS
        assert process(work) == []
    assert job.context.progress.done == job.context.progress.total == len(ITEMS)


@pytest.mark.parametrize("processes", [2, 5])
def test_several_processes_process_each_item_once(job: Job, processes: int) -> None:
    finished: list[list[str]] = []

    def run() -> None:
        with SharedWork(job, ITEMS, 1, "photos") as work:
            finished.append(process(work))
            assert [row["item"] for row in work.rows()] == ITEMS  # no process returns before all items are finished

    threads = [threading.Thread(target=run) for _ in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(item for items in finished for item in items) == sorted(ITEMS) and len(finished) == processes


def test_unfinished_parts_are_taken_over(job: Job) -> None:
    with SharedWork(job, ITEMS, 4, "photos") as first:
        assert process(first, max_parts=1) == ITEMS[:4]  # and the second part is started
        with SharedWork(job, ITEMS, 4, "photos") as second:
            claimed = [item for _, item in next(second.rounds())]
            assert claimed == ITEMS[8:]
    with SharedWork(job, ITEMS, 4, "photos") as third:
        assert job.context.progress.done == 4  # before it starts
        assert process(third) == ITEMS[4:]


def test_a_round_does_not_wait_but_the_next_one_does(job: Job) -> None:
    with SharedWork(job, ITEMS, 4, "photos") as first:
        for _ in first.rounds():
            break
        part, _ = next(items := next(first.rounds()))
        with SharedWork(job, ITEMS, 4, "photos") as second:
            finished: list[list[str]] = []
            thread = threading.Thread(target=lambda: finished.append(process(second)))
            thread.start()
            thread.join(0.5)
            assert thread.is_alive() and second._is_finished(1) and second._is_finished(2)
            first.finish(part, [{"item": item} for item in ITEMS[:4]])
            thread.join(5)
        assert finished == [ITEMS[4:]] and list(items)[-1] == (0, ITEMS[3])


def test_no_part_is_started_once_the_artefact_is_in_place(job: Job, tmp_path: Path) -> None:
    with SharedWork(job, ITEMS, 4, "photos") as work:
        (tmp_path / "abc").mkdir()
        (tmp_path / "abc" / MANIFEST).write_text("{}")
        for file in job.parts.iterdir():
            file.unlink()
        assert process(work) == []


def _finished(job: Job) -> None:
    job.parts.mkdir()
    (job.parts / "x.bin").write_bytes(b"features")
    with SharedWork(job, ITEMS, 4, "photos") as work:
        for items in work.rounds():
            for part, group in groupby(items, itemgetter(0)):
                work.finish(part, [{"item": item} for _, item in group], files=["x.bin"] if part == 1 else [])


def _edit(edit: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        digest, content = data.split(b"\n")
        edit(record := json.loads(content))
        return digest + b"\n" + json.dumps(record).encode()

    return change


# What a power cut or a person may make of the record of a part.
RECORDS: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda data: None,
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "without its end": lambda data: data[:-1],
    "zeros": lambda data: bytes(len(data)),
    "half zeros": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "another kind": lambda data: b"[]",
    "no keys": lambda data: b"{}",
    "a row less": _edit(lambda record: record["rows"].pop()),
    "no rows": _edit(lambda record: record["rows"].clear()),
    "other items": _edit(lambda record: record.update(items="0" * 64)),
    "other files": _edit(lambda record: record["files"].update({"../x": "0"})),
    "no digest": lambda data: data.split(b"\n")[1],
    "nested": lambda data: b"[" * 100_000,
    "no text": lambda data: b"\xff" * 50,
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_part_whose_record_is_damaged_is_computed_again(name: str, job: Job) -> None:
    _finished(job)
    path = job.parts / "000001.jsonl"
    data = RECORDS[name](path.read_bytes())
    path.unlink() if data is None else path.write_bytes(data)
    with SharedWork(job, ITEMS, 4, "photos") as work:
        assert process(work) == ITEMS[4:8] and [row["item"] for row in work.rows()] == ITEMS


@pytest.mark.parametrize("data", [None, b"", b"feat", bytes(8)])
@pytest.mark.parametrize("helps", [False, True])
def test_a_part_whose_file_is_damaged_is_computed_again_by_the_process_that_builds(
    data: bytes | None, helps: bool, job: Job
) -> None:
    _finished(job)
    (job.parts / "x.bin").unlink() if data is None else (job.parts / "x.bin").write_bytes(data)
    with SharedWork(replace(job, helps=helps), ITEMS, 4, "photos") as work:
        assert process(work) == ([] if helps else ITEMS[4:8])


def test_parts_of_other_items_do_not_count(job: Job) -> None:
    _finished(job)
    others = [item.upper() for item in ITEMS]
    with SharedWork(job, others, 4, "photos") as work:
        assert process(work) == others


def test_a_part_that_is_damaged_after_it_was_finished_is_one_line(job: Job) -> None:
    with SharedWork(job, ITEMS, 4, "photos") as work:
        process(work)
        (job.parts / "000002.jsonl").write_bytes(b"")
        with pytest.raises(ArtefactError, match=r"000002.jsonl: is damaged \(.*\); run again"):
            work.rows()
