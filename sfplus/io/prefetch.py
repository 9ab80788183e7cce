"""Prefetching in threads, and batches of bounded total size."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

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
            exceed it by more than one result of each thread. Nor are more items taken than make results of about this
            size in all, or than two for each thread.
    """
    work = _Work(function, threads, size, limit)
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            result = ready(item) if ready else None
            pending.append(work.add(item) if result is None else _finished(result))
            while len(pending) > buffer_size or (pending and work.is_enough()):
                yield work.take(pending.popleft())
        while pending:
            yield work.take(pending.popleft())
    finally:
        work.close()


class _Work(Generic[Item, Result]):
    """Items in order, of which threads work on a few; a thread never waits, so that none is left when Python ends.

    Args:
        function: computes the result of an item.
        threads: the number of threads.
        size: of a result; without it, all items may start.
        limit: the sum of the sizes of waiting results from which no item starts.
    """

    def __init__(
        self, function: Callable[[Item], Result], threads: int, size: Callable[[Result], int] | None, limit: int
    ) -> None:
        self._function, self._threads, self._size, self._limit = function, threads, size, limit
        self._pool = ThreadPoolExecutor(threads)
        self._lock = threading.Lock()
        self._queue: deque[tuple[Item, Future[Result]]] = deque()  # items that are not started
        self._sizes: dict[Future[Result], int] = {}  # of the results that wait
        self._running = self._waiting = self._done = self._total = 0

    def add(self, item: Item) -> Future[Result]:
        """Return the future result of an item; items start in the order in which they are added."""
        future: Future[Result] = Future()
        with self._lock:
            self._queue.append((item, future))
        self._start()
        return future

    def is_enough(self) -> bool:
        """Return True if items were added for about as many results as may wait, by the mean size of all so far."""
        if self._size is None:
            return False
        with self._lock:
            unfinished = self._running + len(self._queue)
            expected = self._waiting + unfinished * (self._total / self._done if self._done else self._limit)
            return self._waiting >= self._limit or (unfinished >= 2 * self._threads and expected >= self._limit)

    def take(self, future: Future[Result]) -> Result:
        """Wait for a result and return it; others may then start in its place."""
        result = future.result()
        with self._lock:
            self._waiting -= self._sizes.pop(future, 0)
        self._start()
        return result

    def close(self) -> None:
        """Wait for the items that have started, and start no more."""
        with self._lock:
            self._queue.clear()
        self._pool.shutdown()

    def _start(self) -> None:
        with self._lock:
            while self._queue and self._running < self._threads and (not self._size or self._waiting < self._limit):
                self._pool.submit(self._run, *self._queue.popleft())
                self._running += 1

    def _run(self, item: Item, future: Future[Result]) -> None:
        try:
            result = self._function(item)
            size = self._size(result) if self._size else 0
        except BaseException as error:
            with self._lock:
                self._running -= 1
            future.set_exception(error)
        else:
            with self._lock:
                self._running -= 1
                self._done += 1
                self._total += size
                self._waiting += size
                self._sizes[future] = size
            future.set_result(result)
        self._start()


def _finished(result: Result) -> Future[Result]:
    future: Future[Result] = Future()
    future.set_result(result)
    return future


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
