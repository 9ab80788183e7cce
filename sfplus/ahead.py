"""Reading ahead: threads make the next results while the caller works on the last."""

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
