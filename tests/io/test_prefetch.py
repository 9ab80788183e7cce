import itertools
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from slow_cases import mostly_slow

from sfplus.io.prefetch import Postponed, Reserve, batch_by_size, prefetch_batches, prefetch_map


def test_results_come_in_order_from_threads() -> None:
    caller = threading.get_ident()
    results = list(prefetch_map(lambda n: (n * n, threading.get_ident()), range(50), buffer_size=3))
    assert [square for square, _ in results] == [n * n for n in range(50)]
    assert caller not in {thread for _, thread in results}


def test_items_are_taken_in_the_callers_thread_and_few_in_advance() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(threading.get_ident())
            yield number

    results = prefetch_map(lambda n: n, items(), buffer_size=4)
    assert [next(results) for _ in range(10)] == list(range(10)) and len(taken) == 14
    assert set(taken) == {threading.get_ident()}
    results.close()


def test_an_exception_is_raised_in_the_turn_of_its_item() -> None:
    results = prefetch_map(lambda n: 1 // (3 - n), range(9), buffer_size=4)
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ([], []),
        ([1, 1], [[1, 1]]),
        ([9, 1, 1, 1, 1], [[9], [1, 1, 1], [1]]),
        ([2, 3, 1, 4, 4], [[2, 3], [1, 4], [4]]),
        ([0, 0, 0, 0], [[0, 0, 0], [0]]),
    ],
)
def test_batches_end_by_size_or_number(sizes: list[int], batches: list[list[int]]) -> None:
    assert list(batch_by_size(iter(sizes), lambda size: size, 4, 3)) == batches


def test_batches_are_yielded_as_soon_as_they_are_full() -> None:
    taken: list[int] = []
    batches = batch_by_size((taken.append(i) or i for i in range(100)), lambda _: 1, 9, 2)  # type: ignore[func-returns-value]
    assert next(batches) == [0, 1] and taken == [0, 1]


def test_results_that_are_ready_need_no_thread_and_keep_their_place() -> None:
    computed = []

    def double(number: int) -> int:
        computed.append(number)
        return 2 * number

    results = prefetch_map(double, range(20), 3, ready=lambda number: 2 * number if number % 3 else None)
    assert list(results) == list(range(0, 40, 2)) and sorted(computed) == list(range(0, 20, 3))


def run(
    sizes: list[int], memory: int, threads: int, *, first: dict[int, float] | None = None, **options: int
) -> tuple[list[list[int]], int]:
    """Compute numbers that need these sizes; return the batches and the most that was in memory at a time."""
    lock = threading.Lock()
    now = most = 0
    started: list[int] = []

    def decode(number: int, reserve: Reserve) -> int:
        nonlocal now, most
        time.sleep((first or {}).get(number, 0))  # a slow disk
        if not reserve(sizes[number]):
            raise Postponed
        with lock:
            started.append(number)
            now += sizes[number]
            most = max(most, now)
        return number

    batches = []
    results = prefetch_batches(
        decode, range(len(sizes)), 100, threads, size=lambda number: sizes[number], memory=memory, **options
    )
    for batch in results:
        batches.append(list(batch))
        for _ in range(5):  # enough for all that may start
            time.sleep(0.0005)
        with lock:
            now -= sum(sizes[number] for number in batch)
    assert sorted(started) == list(range(len(sizes)))
    return batches, most


@pytest.mark.parametrize("threads", mostly_slow([1, 2, 7], [2]))
@pytest.mark.parametrize(
    ("sizes", "memory"),
    [
        ([3, 1, 9, 1, 1, 1, 20, 1, 1, 1, 1, 1, 30, *[2] * 30, *[9] * 30], 5),  # many alone
        ([3, 1, 9, 1, 1, 1, 20, 1, 1, 1, 1, 1, 30, *[2] * 30, *[9] * 30], 40),
        ([100] * 20, 10),  # each alone
        ([0] * 50, 10),
        ([10] * 50, 10),
        ([1, 100] * 20, 10),
        (random.Random(0).choices(range(1, 12), k=80), 20),
    ],
)
@pytest.mark.parametrize(("batch_size", "max_items"), mostly_slow([(0, 1), (3, 4), (50, 16)], [(3, 4)]))
def test_results_fill_the_memory_or_are_computed_alone(
    sizes: list[int], memory: int, threads: int, batch_size: int, max_items: int
) -> None:
    """Whatever the order is in which threads finish, no result is lost and none waits for ever."""
    batches, most = run(sizes, memory, threads, batch_size=batch_size, max_items=max_items)
    assert list(itertools.chain.from_iterable(batches)) == list(range(len(sizes)))
    assert batches == list(batch_by_size(range(len(sizes)), lambda number: sizes[number], batch_size, max_items))
    beside = max(memory, batch_size + max(sizes))  # a batch may be waiting for its last result
    assert most <= beside + max(sizes)


@pytest.mark.slow
def test_memory_is_exact_where_results_are_taken_one_by_one() -> None:
    rng = random.Random(1)
    sizes = rng.choices([1, 2, 3, 10, 50], k=200)
    _, most = run(sizes, 20, 4)
    assert most <= 20 + 50
    assert run([5] * 100, 20, 4)[1] <= 20 + 5
    assert run([50] * 30, 20, 4)[1] == 50  # never two at a time, the caller waits for each


def test_the_next_results_are_computed_while_the_caller_works() -> None:
    computed: list[int] = []

    def decode(number: int, reserve: Reserve) -> int:
        if not reserve(10):
            raise Postponed
        computed.append(number)
        return number

    results = prefetch_batches(decode, range(50), 40, 4, size=lambda _: 10, memory=40)
    assert next(results) == [0]
    time.sleep(0.1)
    ahead = len(computed)
    assert 4 <= ahead <= 5  # within the memory, of which the caller holds a part, and one result if the first was late
    assert next(results) == [1]
    time.sleep(0.1)
    assert ahead < len(computed) <= 6
    results.close()


def test_a_large_result_behind_slow_ones_does_not_deadlock() -> None:
    """Later results, which are faster, have taken the memory when the first one asks for it."""
    batches, most = run([30, *[3] * 40], 20, 4, first={0: 0.2})
    assert [number for (number,) in batches] == list(range(41)) and most <= 50


def test_a_batch_is_emptied_when_the_next_is_asked_for() -> None:
    results = prefetch_batches(lambda number, _: number, range(4), max_items=2)
    first = next(results)
    assert first == [0, 1] and next(results) == [2, 3] and first == []


def test_results_that_are_ready_count_too() -> None:
    taken: list[int] = []
    items = (taken.append(n) or n for n in range(100))  # type: ignore[func-returns-value]
    results = prefetch_batches(lambda n, _: n, items, 50, 2, lambda n: n, size=lambda _: 10, memory=30)
    for number in range(20):
        assert next(results) == [number] and len(taken) <= number + 4
    results.close()


def test_few_items_are_taken_while_results_are_large() -> None:
    taken: list[int] = []
    items = (taken.append(n) or n for n in range(1000))  # type: ignore[func-returns-value]
    results = prefetch_batches(lambda n, _: n, items, 500, 4, size=lambda _: 10, memory=30)
    for number in range(20):
        assert next(results) == [number] and len(taken) - number <= 1 + 2 * 4 + 3 + 4
    results.close()


def test_closing_ends_the_threads_without_starting_more_items() -> None:
    started: list[int] = []

    def decode(number: int, reserve: Reserve) -> int:
        started.append(number)
        if not reserve(10):
            raise Postponed
        return number

    before = threading.active_count()
    results = prefetch_batches(decode, range(1000), 500, 2, size=lambda _: 10, memory=20)
    next(results)
    results.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before and len(started) < 20


def test_closing_waits_for_nobody() -> None:
    """The garbage collector closes a generator anywhere, also in the start of a thread, where waiting is for ever."""
    go_on = threading.Event()
    results = prefetch_map(lambda number: number == 0 or go_on.wait(30), range(9), threads=2)
    assert next(results)
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 5
    go_on.set()


@pytest.mark.parametrize("memory", [0, 1, 100])
def test_an_exception_is_raised_in_the_turn_of_its_item_with_a_limit(memory: int) -> None:
    def decode(number: int, reserve: Reserve) -> int:
        if not reserve(10):
            raise Postponed
        return 1 // (3 - number)

    results = prefetch_batches(decode, range(9), 8, size=lambda _: 10, memory=memory)
    assert [list(next(results)) for _ in range(3)] == [[0], [0], [1]]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_program_ends_while_results_wait() -> None:
    """Also if the generator is never closed: a traceback may hold it until Python ends."""
    code = """
from sfplus.io.prefetch import prefetch_batches
kept = prefetch_batches(lambda n, reserve: reserve(10) and n, range(1000), 500, 2, size=lambda _: 10, memory=20)
next(kept)
raise ValueError("of the user")
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 1 and "of the user" in process.stderr
