"""Prefetching in threads, and batches of bounded total size."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    buffer_size: int = 8,
    threads: int = 2,
    ready: Callable[[Item], Result | None] | None = None,
    size: Callable[[Result], int] | None = None,
    limit: int = 0,
) -> Iterator[Result]:
    """Yield `function(item)` for all items in order, computed in threads before the caller asks.

    Args:
        function: called in a thread; an exception is raised when the turn of its item comes.
        items: any number of items, which are taken in the caller's thread.
        buffer_size: the number of results that may wait.
        threads: the number of threads.
        ready: returns the result of an item that needs no thread, else None.
        size: the size of a result, for example in pixels.
        limit: with `size`, no item is started while waiting results add up to this or more, so that they never
            exceed it by more than one result of each thread.
    """
    gate = _Gate(size, limit)
    pool = ThreadPoolExecutor(threads)
    try:
        pending: deque[tuple[int, Callable[[], Result], bool]] = deque()
        for number, item in enumerate(items):
            result = ready(item) if ready else None
            if result is None:
                pending.append((number, pool.submit(gate.call, function, number, item).result, True))
            else:
                pending.append((number, partial(_identity, result), False))
            if len(pending) > buffer_size:
                yield gate.take(*pending.popleft())
        while pending:
            yield gate.take(*pending.popleft())
    finally:
        gate.open()
        pool.shutdown(cancel_futures=True)


class _Gate:
    """Lets threads start items while the results that wait for the caller are small.

    Args:
        size: of a result; without it, the gate is always open.
        limit: the sum of sizes at which the gate closes for all items but the one that the caller waits for.
    """

    def __init__(self, size: Callable[[Any], int] | None, limit: int) -> None:
        self._size = size
        self._limit = limit
        self._waiting = 0
        self._next = 0  # the item that the caller takes next; the threads start items in order, so it is never stuck
        self._is_open = size is None
        self._changed = threading.Condition()

    def call(self, function: Callable[[Item], Result], number: int, item: Item) -> Result:
        """Return `function(item)`, once the item may start."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_open or self._waiting < self._limit or number <= self._next)
        result = function(item)
        self._add(result, 1)
        return result

    def take(self, number: int, result: Callable[[], Result], is_counted: bool) -> Result:
        """Return a result to the caller."""
        with self._changed:
            self._next = number
            self._changed.notify_all()
        value = result()
        if is_counted:
            self._add(value, -1)
        return value

    def open(self) -> None:
        """Let all items start."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def _add(self, result: object, sign: int) -> None:
        if self._size is None:
            return
        with self._changed:
            self._waiting += sign * self._size(result)
            self._changed.notify_all()


def _identity(result: Result) -> Result:
    return result


def batch_by_size(
    items: Iterable[Item], size: Callable[[Item], int], limit: int, max_items: int
) -> Iterator[list[Item]]:
    """Yield the items in order, in lists that end when their sizes add up to more than `limit` or at `max_items`."""
    batch: list[Item] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size(item)
        if total > limit or len(batch) == max_items:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
