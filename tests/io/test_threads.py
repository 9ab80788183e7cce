import threading
from collections.abc import Iterator

import pytest
import torch

from sfplus.io.threads import count_threads, single_threaded_pool, worker_threads


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


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
    with torch.inference_mode(), worker_threads(count) as workers:
        results = list(workers.run(lambda: workers.map(lambda n: n * weight, range(5))))
    assert [int(result) for result in results] == list(range(5)) and not any(r.requires_grad for r in results)


def test_an_exception_reaches_the_caller() -> None:
    with worker_threads(2) as workers, pytest.raises(ZeroDivisionError):
        list(workers.map(lambda n: 1 // n, range(3)))


def test_pools_of_several_threads_do_not_change_the_number_of_threads() -> None:
    """Neither for the threads that use them, nor for those that start later."""
    seen: set[int] = set()

    def work() -> None:
        for _ in range(20):
            seen.add(count_threads())
            with worker_threads(2) as workers:
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
