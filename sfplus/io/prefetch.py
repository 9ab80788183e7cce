"""Prefetching in threads, and batches of bounded total size."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch_map(
    function: Callable[[Item], Result], items: Iterable[Item], buffer_size: int = 8, threads: int = 2
) -> Iterator[Result]:
    """Yield `function(item)` for all items in order, computed in threads before the caller asks.

    Args:
        function: called in a thread; an exception is raised when the turn of its item comes.
        items: any number of items, which are taken in the caller's thread.
        buffer_size: the number of results that may wait.
        threads: the number of threads.
    """
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[Result]] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > buffer_size:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


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
