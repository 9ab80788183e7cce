"""Prefetching in threads, and batches of bounded total size."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Postponed(BaseException):
    """Raised where memory is not granted. It is no `Exception`, so that nobody takes it for a damaged photo."""


Reserve = Callable[[int], bool]
"""A function that asks for memory, in bytes, and returns whether it is granted."""


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
    batches = prefetch_batches(lambda item, _: function(item), items, buffer_size, threads, ready)
    return (result for batch in batches for result in batch)


def prefetch_batches(
    function: Callable[[Item, Reserve], Result],
    items: Iterable[Item],
    buffer_size: int = 8,
    threads: int = 2,
    ready: Callable[[Item], Result | None] | None = None,
    *,
    size: Callable[[Result], int] | None = None,
    memory: int = 0,
    batch_size: int = 0,
    max_items: int = 1,
) -> Iterator[list[Result]]:
    """Yield `function(item, reserve)` for all items in order, in lists, computed in threads before the caller asks.

    The function asks `reserve` for the memory that it is about to take. It is granted while all memory stays within the
    limit: of the results that are being computed, of those that wait, and of the list that the caller works on.
    Otherwise the function must raise `Postponed`, and is called again when there is room. A result that needs more than
    the limit is computed while the caller waits for it, so that the memory is never more than the limit, the list that
    is being collected, and one result.

    Args:
        function: called in a thread; an exception is raised when the turn of its item comes.
        items: any number of items, which are taken in the caller's thread.
        buffer_size: the number of results that may wait.
        threads: the number of threads.
        ready: returns the result of an item that needs no thread, else None.
        size: the memory of a result, bytes.
        memory: the limit, bytes; with 0 everything is granted.
        batch_size: a list ends when its results have more bytes than this.
        max_items: a list ends at this number of results.

    Yields:
        Lists, each of which is emptied when the next one is asked for, so that no variable keeps the memory.
    """
    work = _Work(function, threads, size, memory)
    results = _in_order(work, items, buffer_size, ready)
    wait = True
    try:
        while batch := list(_take_batch(work, results, batch_size, max_items)):
            yield batch
            batch.clear()  # the caller's next photos need the memory
            work.release()
    except GeneratorExit:
        wait = (
            False  # the garbage collector may close it anywhere, also where a thread starts: waiting would be for ever
        )
        raise
    finally:
        work.close(wait)


def _in_order(
    work: _Work[Item, Result],
    items: Iterable[Item],
    buffer_size: int,
    ready: Callable[[Item], Result | None] | None,
) -> Iterator[Future[Result]]:
    pending: deque[Future[Result]] = deque()
    for item in items:
        result = ready(item) if ready else None
        pending.append(work.add(item) if result is None else work.add_result(result))
        while len(pending) > buffer_size or (pending and work.is_enough()):
            yield pending.popleft()
    while pending:
        yield pending.popleft()


def _take_batch(
    work: _Work[Item, Result], results: Iterator[Future[Result]], batch_size: int, max_items: int
) -> Iterator[Result]:
    total = 0
    for number, future in enumerate(results, 1):
        total += work.take(future)
        yield future.result()
        if total > batch_size or number == max_items:
            return


class _Work(Generic[Item, Result]):
    """Items in order, of which threads work on a few; a thread never waits, so that none is left when Python ends.

    Args:
        function: computes the result of an item.
        threads: the number of threads.
        size: the memory of a result, bytes.
        limit: of the memory, bytes; 0: none.
    """

    def __init__(
        self,
        function: Callable[[Item, Reserve], Result],
        threads: int,
        size: Callable[[Result], int] | None,
        limit: int,
    ) -> None:
        self._function, self._threads, self._size, self._limit = function, threads, size, limit
        self._pool = ThreadPoolExecutor(threads)
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        # Items that are not started, first the first one: their number, the memory that they need, if it is known.
        self._queue: list[tuple[int, int, Item, Future[Result]]] = []
        self._reserved: dict[Future[Result], int] = {}  # by items that are being computed, and results that wait
        self._held = self._used = self._running = self._done = self._total = 0
        self._awaited: Future[Result] | None = None

    def add(self, item: Item) -> Future[Result]:
        """Return the future result of an item; items start in the order in which they are added."""
        future: Future[Result] = Future()
        with self._lock:
            heapq.heappush(self._queue, (next(self._numbers), 0, item, future))
        self._start()
        return future

    def add_result(self, result: Result) -> Future[Result]:
        """Return a future that is finished."""
        future: Future[Result] = Future()
        with self._lock:
            self._reserved[future] = size = self._size(result) if self._size else 0
            self._used += size
        future.set_result(result)
        return future

    def is_enough(self) -> bool:
        """Return True if items were added for about as many results as may wait, by the mean size of all so far."""
        if not self._limit:
            return False
        with self._lock:
            unfinished = self._running + len(self._queue)
            expected = self._used + unfinished * (self._total / self._done if self._done else self._limit)
            return self._used >= self._limit or (unfinished >= 2 * self._threads and expected >= self._limit)

    def take(self, future: Future[Result]) -> int:
        """Wait for a result, which counts as held by the caller from now on, and return its size."""
        with self._lock:
            self._awaited = future
        self._start()
        try:
            future.result()
        finally:
            with self._lock:
                self._awaited = None
                size = self._reserved.pop(future, 0)
                self._held += size
        return size

    def release(self) -> None:
        """Give back the memory of the results that the caller has taken."""
        with self._lock:
            self._used -= self._held
            self._held = 0
        self._start()

    def close(self, wait: bool) -> None:
        """Start no more items, and perhaps wait for those that have started."""
        with self._lock:
            self._queue.clear()
        self._pool.shutdown(wait)

    def _fits(self, future: Future[Result], size: int) -> bool:
        """Return whether an item may take memory: within the limit, or if the caller waits for it."""
        return self._used + size <= self._limit or future is self._awaited

    def _start(self) -> None:
        with self._lock:
            while self._queue and self._running < self._threads:
                _, size, _, future = self._queue[0]
                if self._limit and not self._fits(future, max(1, size)):
                    return
                self._running += 1
                self._pool.submit(self._run, *heapq.heappop(self._queue))

    def _reserve(self, future: Future[Result], size: int) -> bool:
        if not self._limit:
            return True
        with self._lock:
            fits = self._fits(future, size)
            if fits:
                self._used += size
                self._reserved[future] = self._reserved.get(future, 0) + size
        return fits

    def _run(self, number: int, _: int, item: Item, future: Future[Result]) -> None:
        needed = 0

        def reserve(size: int) -> bool:
            nonlocal needed
            needed = size
            return self._reserve(future, size)

        try:
            result = self._function(item, reserve)
            size = self._size(result) if self._size else 0
        except Postponed:
            with self._lock:
                self._running -= 1
                self._used -= self._reserved.pop(future, 0)  # it may have been granted memory before it was refused
                heapq.heappush(self._queue, (number, needed, item, future))
        except BaseException as error:
            self._finish(future, 0)
            future.set_exception(error)
        else:
            self._finish(future, size)
            future.set_result(result)
        self._start()

    def _finish(self, future: Future[Result], size: int) -> None:
        with self._lock:
            self._running -= 1
            self._done += 1
            self._total += size
            self._used += size - self._reserved.pop(future, 0)
            self._reserved[future] = size


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
            del item  # no variable keeps an item or a batch while the next are read
            full, batch, total = [batch], [], 0
            yield full.pop()
    if batch:
        yield batch
