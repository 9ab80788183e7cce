"""Thread pools for torch: many small operations run faster in one thread each than each in many threads."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def fork_safe_lock() -> threading.Lock:
    """Return a lock that no forked process inherits locked: a fork waits until it is free.

    It is for the variables of a module, for a short time, and never inside of another such lock.
    """
    lock = threading.Lock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


# Held while the threads of a pool start, when torch's number of threads is 1 for the whole process.
_starting = fork_safe_lock()


def count_threads() -> int:
    """Return torch's number of threads, never the 1 of a pool that another thread starts at this moment."""
    with _starting:
        return torch.get_num_threads()


def _start_pool(size: int) -> ThreadPoolExecutor:
    """Start threads that each run torch single-threaded; all other threads keep their number of threads of torch.

    Raises:
        RuntimeError: If the system starts no more threads.
    """
    ready = threading.Barrier(size + 1)
    started: Future[ThreadPoolExecutor] = Future()

    def start() -> None:
        torch.get_num_threads()  # without this, the thread adopts the number later, after it has been set back
        torch.set_num_threads(1)
        with suppress(threading.BrokenBarrierError):  # another thread of the pool did not start
            ready.wait()

    def start_all() -> None:
        count = torch.get_num_threads()  # of the process: the caller may have a number of its own
        pool = ThreadPoolExecutor(size, initializer=start)
        try:
            for _ in range(size):
                pool.submit(int)
            ready.wait()
            started.set_result(pool)
        except BaseException as error:
            ready.abort()
            pool.shutdown()  # waits for its threads, each of which sets the number to 1
            started.set_exception(error)
        finally:
            torch.set_num_threads(count)  # for all threads but these

    with _starting:
        starter = threading.Thread(target=start_all)
        starter.start()
        starter.join()
    return started.result()


@contextmanager
def single_threaded_pool(size: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool whose threads each run torch single-threaded; other threads keep torch's number of threads.

    Several threads may start pools at the same time.

    Args:
        size: the number of threads in the pool.
    """
    with _start_pool(size) as pool:
        yield pool


class WorkerThreads:
    """Threads that each run torch single-threaded and without gradients.

    Args:
        pool: the threads; None runs everything in the calling thread.
        count: the number of items that `map` works on at a time.
    """

    def __init__(self, pool: ThreadPoolExecutor | None = None, count: int = 1) -> None:
        self._pool = pool
        self.count = count

    def run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Return `function(*arguments)`, computed in an additional thread, from which `map` may be called."""
        if self._pool is None:
            return function(*arguments)
        return self._pool.submit(torch.inference_mode()(function), *arguments).result()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterable[Result]:
        """Return the results of `function` for all items, in their order."""
        return self._pool.map(torch.inference_mode()(function), items) if self._pool else map(function, items)


class WorkerPool:
    """The worker threads of one object: they start when they are first used and end with it.

    Several threads may use a pool; they take turns. A forked process starts threads of its own.
    """

    def __init__(self) -> None:
        self._reset()
        _pools.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._count = 0

    @contextmanager
    def workers(self, count: int) -> Iterator[WorkerThreads]:
        """Yield `count` worker threads; with 1, everything runs in the calling thread."""
        if count == 1:
            yield WorkerThreads()
            return
        with self._lock:
            if self._threads is None or self._count != count:
                if self._threads is not None:
                    self._threads.shutdown(wait=False)
                    self._threads = None  # also if no others can be started
                self._threads, self._count = _start_pool(count + 1), count
            yield WorkerThreads(self._threads, count)


_pools: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def _reset_pools() -> None:
    for pool in list(_pools):
        pool._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_pools)
