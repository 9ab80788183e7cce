import gc
import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sfplus.io.threads import WorkerPool, WorkerThreads, count_threads, single_threaded_pool

pytestmark = pytest.mark.usefixtures("three_threads")


def test_torch_is_single_threaded_in_the_pool_only() -> None:
    with single_threaded_pool(2) as pool:
        ready = threading.Barrier(2)

        def count(_: int) -> int:
            ready.wait()
            return torch.get_num_threads()

        assert list(pool.map(count, range(2))) == [1, 1]
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_order_without_gradients(count: int) -> None:
    weight = torch.ones(1, requires_grad=True)
    with torch.inference_mode(), WorkerPool().workers(count) as workers:
        results = list(workers.run(lambda: workers.map(lambda n: n * weight, range(5))))
    assert [int(result) for result in results] == list(range(5)) and not any(r.requires_grad for r in results)


def test_an_exception_reaches_the_caller() -> None:
    with WorkerPool().workers(2) as workers, pytest.raises(ZeroDivisionError):
        list(workers.map(lambda n: 1 // n, range(3)))


def threads_of(workers: WorkerThreads) -> set[int]:
    """Return the identities of all threads of a pool, the one of `run` included."""
    ready = threading.Barrier(workers.count)

    def identity(_: int) -> int:
        ready.wait()
        return threading.get_ident()

    return {workers.run(threading.get_ident), *workers.map(identity, range(workers.count))}


def test_a_pool_keeps_its_threads_until_another_number_is_asked_for() -> None:
    pool = WorkerPool()
    seen = []
    for count in (2, 2, 3):
        with pool.workers(count) as workers:
            assert workers.count == count
            seen.append(threads_of(workers))
    assert seen[0] & seen[1]
    with pool.workers(1) as workers:
        assert workers.run(threading.get_ident) == threading.get_ident()


def test_the_threads_end_with_their_pool() -> None:
    before, started = set(threading.enumerate()), set[threading.Thread]()
    pool = WorkerPool()
    for count in (2, 3):  # the second number replaces the threads of the first
        with pool.workers(count) as workers:
            started |= set(threading.enumerate()) - before
            list(workers.map(lambda _: None, range(5)))
    assert len(started) == 3 + 4 and any(thread.is_alive() for thread in started)
    del pool, workers
    gc.collect()
    for thread in started:
        thread.join(5)
    assert not any(thread.is_alive() for thread in started)


def test_users_of_a_pool_take_turns() -> None:
    """More users than threads: each needs an additional thread, which waits for the others."""
    pool, inside, most = WorkerPool(), 0, 0

    def work(number: int) -> list[int]:
        def double() -> list[int]:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            result = list(workers.map(lambda n: n * number, range(20)))
            inside -= 1
            return result

        with pool.workers(2) as workers:
            return workers.run(double)

    with ThreadPoolExecutor(8) as users:
        results = list(users.map(work, range(40), timeout=60))
    assert results == [[n * number for n in range(20)] for number in range(40)] and most == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_starts_its_own_threads() -> None:
    """Also if another thread uses the pool at the time of the fork."""
    pool = WorkerPool()
    busy, done = threading.Event(), threading.Event()

    def use() -> None:
        with pool.workers(2):
            busy.set()
            done.wait()

    user = threading.Thread(target=use)
    user.start()
    busy.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks of threaded processes
        child = os.fork()
    if not child:
        with pool.workers(2) as workers:
            os._exit(sum(workers.run(lambda: workers.map(lambda n: 2 * n, range(4)))))
    done.set()
    user.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 12


def test_pools_of_several_threads_do_not_change_the_number_of_threads() -> None:
    """Neither for the threads that use them, nor for those that start later."""
    seen: set[int] = set()

    def work() -> None:
        for _ in range(20):
            seen.add(count_threads())
            with WorkerPool().workers(2) as workers:
                list(workers.map(lambda _: None, range(2)))

    users = [threading.Thread(target=work) for _ in range(6)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    later = threading.Thread(target=lambda: seen.add(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == {3} and torch.get_num_threads() == 3


def test_a_thread_with_a_number_of_its_own_keeps_it_and_does_not_pass_it_on() -> None:
    seen = []

    def work() -> None:
        torch.set_num_threads(2)
        torch.set_num_threads(3)  # the number of the process again
        set_own_number(2)
        with WorkerPool().workers(2) as workers:
            list(workers.map(lambda _: None, range(2)))
        seen.append(torch.get_num_threads())

    user = threading.Thread(target=work)
    user.start()
    user.join()
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [2, 3] and torch.get_num_threads() == 3


def set_own_number(count: int) -> None:
    """Set the number of threads of OpenMP for the calling thread alone, as another library may do."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    torch.get_num_threads()
    threadpoolctl.threadpool_limits(count, user_api="openmp")


def test_a_thread_that_cannot_start_is_an_error_that_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before, start, count = threading.active_count(), threading.Thread.start, 0

    def start_two(thread: threading.Thread) -> None:
        nonlocal count
        count += thread.name.startswith("ThreadPoolExecutor")
        if count == 3:
            raise RuntimeError("can't start new thread")
        start(thread)

    pool = WorkerPool()
    with pool.workers(2), monkeypatch.context() as patch, pytest.raises(RuntimeError, match="can't start new thread"):
        patch.setattr(threading.Thread, "start", start_two)
        WorkerPool().workers(3).__enter__()
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="can't start new thread"):
        count = 0
        patch.setattr(threading.Thread, "start", start_two)
        pool.workers(3).__enter__()
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [3] and torch.get_num_threads() == 3
    with pool.workers(2) as workers:  # the pool that had its threads replaced has none, and starts others
        assert list(workers.map(abs, [-1])) == [1]
    del pool, workers
    gc.collect()
    for thread in set(threading.enumerate()) - {threading.main_thread()}:
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(5)
    assert threading.active_count() <= before
