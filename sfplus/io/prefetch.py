"""Prefetching in threads, and batches of bounded total size."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    buffer_size: int = 8,
    threads: int = 2,
    ready: Callable[[Item], Result | None] | None = None,
) -> Iterator[Result]:
    """Yield `function(item)` for all items in order, computed in threads before the caller asks.

    Args:
        function: called in a thread; an exception is raised when the turn of its item comes.
        items: any number of items, which are taken in the caller's thread.
        buffer_size: the number of results that may wait.
        threads: the number of threads.
        ready: returns the result of an item that needs no thread, else None.
    """
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Callable[[], Result]] = deque()
        for item in items:
            result = ready(item) if ready else None
            pending.append(pool.submit(function, item).result if result is None else partial(_identity, result))
            if len(pending) > buffer_size:
                yield pending.popleft()()
        while pending:
            yield pending.popleft()()


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
