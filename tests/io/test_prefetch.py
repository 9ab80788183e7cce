import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from sfplus.io.prefetch import batch_by_size, prefetch_map


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


def test_waiting_results_add_up_to_the_limit_and_one_result_of_each_thread() -> None:
    """Also while the caller works on a result for a long time, and whatever the sizes are."""
    sizes = [3, 1, 9, 1, 1, 1, 20, 1, 1, 1, 1, 1, 30, *[2] * 30, *[9] * 30]
    lock, started, most, taken = threading.Lock(), 0, 0, 0

    def decode(number: int) -> int:
        nonlocal started
        with lock:
            started += sizes[number]
        return sizes[number]

    results = prefetch_map(decode, range(len(sizes)), 100, 3, size=lambda size: size, limit=5)
    for size in results:
        taken += size
        for _ in range(20):  # more than enough for all that may start
            time.sleep(0.001)
            with lock:
                most = max(most, started - taken)
    assert taken == sum(sizes)
    assert 5 <= most < 5 + 30 + 2 * 9


def test_a_large_result_is_not_started_while_many_wait() -> None:
    started: list[int] = []
    results = prefetch_map(lambda n: started.append(n) or n, range(50), 40, 4, size=lambda _: 10, limit=30)  # type: ignore[func-returns-value]
    assert next(results) == 0
    time.sleep(0.1)
    assert len(started) <= 1 + 3 + 4  # the result that was taken, those that wait, one of each thread
    assert list(results) == list(range(1, 50))


def test_few_items_are_taken_while_results_are_large() -> None:
    taken: list[int] = []
    items = (taken.append(n) or n for n in range(1000))  # type: ignore[func-returns-value]
    results = prefetch_map(lambda n: n, items, 500, 4, size=lambda _: 10, limit=30)
    for number in range(20):
        assert next(results) == number and len(taken) - number <= 1 + 2 * 4 + 3 + 4
    results.close()


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_the_limit_never_stops_the_item_that_the_caller_waits_for(threads: int) -> None:
    """Whatever the order is in which threads finish; results that are ready need no place."""
    rng = random.Random(threads)
    delays = [rng.random() / 500 for _ in range(150)]

    def decode(number: int) -> int:
        time.sleep(delays[number])
        return number

    ready = lambda number: number if number % 5 == 0 else None  # noqa: E731
    results = prefetch_map(decode, range(150), 64, threads, ready, size=lambda _: 7, limit=8)
    assert list(results) == list(range(150))


def test_closing_ends_the_threads_without_starting_more_items() -> None:
    started: list[int] = []

    def decode(number: int) -> int:
        started.append(number)
        return number

    before = threading.active_count()
    results = prefetch_map(decode, range(1000), 500, 2, size=lambda _: 10, limit=20)
    next(results)
    results.close()
    assert threading.active_count() == before and len(started) < 20


def test_an_exception_is_raised_in_the_turn_of_its_item_with_a_limit() -> None:
    results = prefetch_map(lambda n: 1 // (3 - n), range(9), 8, size=lambda _: 10, limit=1)
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_program_ends_while_results_wait() -> None:
    """Also if the generator is never closed: a traceback may hold it until Python ends."""
    code = """
from sfplus.io.prefetch import prefetch_map
kept = prefetch_map(lambda n: n, range(1000), 500, 2, size=lambda _: 10, limit=20)
next(kept)
raise ValueError("of the user")
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 1 and "of the user" in process.stderr
