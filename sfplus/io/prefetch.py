"""Reading ahead, and taking what was read in groups of bounded size."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(work: Callable[[Item], Result], items: Iterable[Item], count: int = 8, threads: int = 2) -> Iterator[Result]:
    """`map(work, items)`, at most `count` results ahead of the caller.

    Args:
        work: called in a thread; what it raises is raised here, in its turn.
        items: any number of them; taken in the caller's own thread.
        count: results that may wait.
        threads: how many work.
    """
    with ThreadPoolExecutor(threads) as pool:
        coming: deque[Future[Result]] = deque()
        for item in items:
            coming.append(pool.submit(work, item))
            if len(coming) > count:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def in_groups(items: Iterable[Item], size: Callable[[Item], int], limit: int, most: int) -> Iterator[list[Item]]:
    """Items in order, in lists that end once their sizes add up to more than `limit`, or hold `most` items."""
    group: list[Item] = []
    total = 0
    for item in items:
        group.append(item)
        total += size(item)
        if total > limit or len(group) == most:
            yield group
            group, total = [], 0
    if group:
        yield group
