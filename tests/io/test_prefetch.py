import threading
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
