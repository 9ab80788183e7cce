from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

from sfplus.device import choose_device
from sfplus.errors import TrainingError, UsageError
from sfplus.training.distributed import ProcessGroup, connection_errors

ROOT = Path(__file__).resolve().parents[2]
STALLED = """
import sys
import time
import torch
from sfplus.device import choose_device
from sfplus.errors import TrainingError
from sfplus.training.distributed import ProcessGroup
processes = ProcessGroup(choose_device("cpu"), timeout=10)
assert processes.gather(torch.tensor([processes.rank])).tolist() == [0, 1]
numbers = (0, 0, 7, 0, 0) if processes.rank else (0, 0, 0, 3, 0)
assert [processes.largest_so_far(number) for number in numbers] == [0, 0, 0, 7, 3]
layout = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
processes.broadcast(layout.state_dict().values())
gathered = processes.gather(layout.weight.detach().flatten())
assert torch.equal(*gathered.chunk(2))
if processes.rank:
    time.sleep(120)
started = time.monotonic()
try:
    processes.mean(torch.ones(2))
except TrainingError as error:
    print(f"after 10 s or more: {time.monotonic() - started > 9}; {error}", file=sys.stderr)
    raise
"""


def test_single_process_does_not_communicate() -> None:
    processes = ProcessGroup(choose_device("cpu"))
    tensor = torch.ones(3)
    assert processes.mean(tensor) is tensor and processes.gather(tensor) is tensor
    assert processes.largest_so_far(4) == 4 and processes.is_first
    assert processes.describe() == choose_device("cpu").describe()


@pytest.mark.parametrize(
    ("count", "rank", "batch", "passes", "expected"),
    [(1, 0, 9, 1, slice(0, 9)), (2, 0, 8, 1, slice(0, 4)), (2, 1, 8, 2, slice(4, 8)), (4, 2, 4, 1, slice(2, 3))],
)
def test_share_of_a_batch(count: int, rank: int, batch: int, passes: int, expected: slice) -> None:
    processes = ProcessGroup(choose_device("cpu"))
    processes.count, processes.rank = count, rank
    assert processes.share(batch, passes) == expected


@pytest.mark.parametrize(("batch", "passes", "among"), [(9, 1, "2 processes"), (10, 2, "2 processes and 2 passes")])
def test_batch_that_cannot_be_divided_is_refused(batch: int, passes: int, among: str) -> None:
    processes = ProcessGroup(choose_device("cpu"))
    processes.count = 2
    with pytest.raises(
        UsageError, match=f"batch_size: {batch} samples cannot be divided among {among}; use a multiple"
    ):
        processes.share(batch, passes)


CONNECTION = [
    distributed.DistError("x"),
    distributed.DistBackendError("NCCL error: remote process exited or there was a network error"),
    distributed.DistNetworkError("The client socket has timed out"),
    distributed.DistStoreError("wait timeout after 1000ms"),
    RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]"),
    RuntimeError("[enforce fail at ../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting"),
]


@pytest.mark.parametrize("error", CONNECTION, ids=lambda error: type(error).__name__)
def test_errors_of_connections_are_one_line_with_their_cause(error: RuntimeError) -> None:
    with pytest.raises(TrainingError, match="another process of this training is gone") as caught, connection_errors():
        raise error
    assert caught.value.__cause__ is error and str(error)[:50] in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        RuntimeError("Expected all tensors to be on the same device"),
        NotImplementedError("gloo/"),
        ValueError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_are_not_about_connections(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, connection_errors():
        raise error
    assert caught.value is error


@pytest.mark.slow
def test_stalled_process_ends_the_others(tmp_path: Path) -> None:
    (tmp_path / "stalled.py").write_text(STALLED)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [*launcher, str(tmp_path / "stalled.py")], env=environment, capture_output=True, check=False, timeout=240
    )
    messages = run.stderr.decode()
    assert run.returncode != 0
    expected = "after 10 s or more: True; another process of this training is gone or does not answer"
    assert expected in messages, messages
