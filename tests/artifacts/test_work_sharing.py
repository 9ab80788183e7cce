"""SharedWork of a stage's work: nothing twice, nothing lost, whoever comes and goes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sfplus.artifacts.artefact import MANIFEST
from sfplus.artifacts.context import RunContext
from sfplus.artifacts.stage import Job, partial_folder
from sfplus.artifacts.work_sharing import SharedWork
from sfplus.io.console import Console

ITEMS = [f"photo {index}" for index in range(11)]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    console = Console(quiet=True)
    run = RunContext(tmp_path, console)
    with console.progress("work", resumed=False) as step:
        return Job(None, {}, partial_folder(tmp_path / "abc"), run.with_progress(step))


def work(parts: SharedWork, most: int = 99) -> list[str]:
    """Take items one by one and finish at most some parts."""
    mine: list[str] = []
    for items in parts.rounds():
        waiting: list[str] = []
        last = None
        for part, item in items:
            if last not in (None, part):
                parts.finish(last, [{"item": item} for item in waiting])
                mine += waiting
                most, waiting = most - 1, []
            if not most:
                return mine
            last, waiting = part, [*waiting, item]
        if last is not None:
            parts.finish(last, [{"item": item} for item in waiting])
            mine += waiting
    return mine


def test_all_is_finished_once_and_in_order(job: Job) -> None:
    with SharedWork(job, ITEMS, 4, "photos") as parts:
        assert work(parts) == ITEMS and [row["item"] for row in parts.rows()] == ITEMS
        assert work(parts) == []
    assert job.context.progress.done == job.context.progress.total == len(ITEMS)


@pytest.mark.parametrize("processes", [2, 5])
def test_several_share_without_doing_anything_twice(job: Job, processes: int) -> None:
    done: list[list[str]] = []

    def run() -> None:
        with SharedWork(job, ITEMS, 1, "photos") as parts:
            done.append(work(parts))
            assert [row["item"] for row in parts.rows()] == ITEMS  # nobody leaves before all is done

    threads = [threading.Thread(target=run) for _ in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(item for items in done for item in items) == sorted(ITEMS) and len(done) == processes


def test_what_was_not_finished_is_taken_over(job: Job) -> None:
    with SharedWork(job, ITEMS, 4, "photos") as first:
        assert work(first, most=1) == ITEMS[:4]  # and the second part is begun
        with SharedWork(job, ITEMS, 4, "photos") as second:
            taken = [item for _, item in next(second.rounds())]
            assert taken == ITEMS[8:]
    with SharedWork(job, ITEMS, 4, "photos") as third:
        assert job.context.progress.done == 4  # before it begins
        assert work(third) == ITEMS[4:]


def test_a_round_never_waits_and_the_next_one_does(job: Job) -> None:
    with SharedWork(job, ITEMS, 4, "photos") as first:
        for _ in first.rounds():
            break
        part, _ = next(items := next(first.rounds()))
        with SharedWork(job, ITEMS, 4, "photos") as second:
            finished: list[list[str]] = []
            thread = threading.Thread(target=lambda: finished.append(work(second)))
            thread.start()
            thread.join(0.5)
            assert thread.is_alive() and second._is_finished(1) and second._is_finished(2)
            first.finish(part, [{"item": item} for item in ITEMS[:4]])
            thread.join(5)
        assert finished == [ITEMS[4:]] and list(items)[-1] == (0, ITEMS[3])


def test_nothing_is_begun_again_once_the_artefact_is_there(job: Job, tmp_path: Path) -> None:
    with SharedWork(job, ITEMS, 4, "photos") as late:
        (tmp_path / "abc").mkdir()
        (tmp_path / "abc" / MANIFEST).write_text("{}")
        for file in job.parts.iterdir():
            file.unlink()
        assert work(late) == []
