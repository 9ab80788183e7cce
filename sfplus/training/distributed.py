"""The processes of a training: a single one, or those that `accelerate launch` or torchrun started."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from torch import Tensor, distributed, nn

from sfplus.device import Device
from sfplus.errors import TrainingError, UsageError, one_line


class ProcessGroup:
    """The processes of a training, which all run the same program and each compute a share of every batch.

    With a single process nothing is communicated, and every method returns its argument.

    Args:
        device: where to compute; with several processes on GPUs each takes its own GPU.
        timeout: seconds to wait for a process that is alive and does not answer. The end of a process is noticed at
            once.

    Attributes:
        count: number of processes.
        rank: index of this process, from 0.
        device: device of this process.

    Raises:
        TrainingError: If another process has ended or does not answer; raised by every method that communicates.
    """

    def __init__(self, device: Device, timeout: float = 1800) -> None:
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        options = [InitProcessGroupKwargs(timeout=timedelta(seconds=timeout))] if several else []
        with _connection_errors():
            self._accelerator = Accelerator(
                cpu=several and not device.is_cuda, mixed_precision="no", kwargs_handlers=options
            )
        if several:
            atexit.unregister(_leave)
            atexit.register(_leave)
        self.count: int = self._accelerator.num_processes
        self.rank: int = self._accelerator.process_index
        self.device = Device(self._accelerator.device) if self.count > 1 and device.is_cuda else device
        # Signal numbers are exchanged on the CPU: reading a value from a GPU would wait for all its queued work.
        self._cpu_group: Any = None
        if several and self.device.is_cuda:
            self._cpu_group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
        self._pending: tuple[distributed.Work, Tensor] | None = None

    @property
    def is_first(self) -> bool:
        """True in the process that writes files and prints."""
        return self.rank == 0

    def describe(self) -> str:
        """Describe what decides the order of sums, as in `2 processes, each on cpu, 1 thread`."""
        device = self.device.describe()
        return device if self.count == 1 else f"{self.count} processes, each on {device}"

    def share(self, batch_size: int, passes: int = 1) -> slice:
        """Return this process's part of a global batch that each process computes in `passes` equal passes.

        Raises:
            UsageError: If the batch cannot be divided evenly among the processes and passes.
        """
        if batch_size % (self.count * passes):
            among = f"{self.count} processes" + (f" and {passes} passes" if passes > 1 else "")
            what = f"{batch_size} samples cannot be divided among {among}"
            raise UsageError(what, where="batch_size", remedy="use a multiple of their number")
        size = batch_size // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the elementwise mean over the processes."""
        if self.count == 1:
            return tensor
        with _connection_errors():
            mean: Tensor = self._accelerator.reduce(tensor, "mean")
        return mean

    def gather(self, tensor: Tensor) -> Tensor:
        """Concatenate the tensors (n, ...) of all processes in the order of the global batch, without gradient.

        Returns:
            (count * n, ...).
        """
        if self.count == 1:
            return tensor
        with _connection_errors():
            gathered: Tensor = self._accelerator.gather(tensor)
        return gathered

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over the processes, which is the gradient of the global batch.

        Call it between the backward pass and the optimizer's step. Parameters without a gradient are skipped; they must
        be the same ones in every process.
        """
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        for dtype in dict.fromkeys(g.dtype for g in gradients):
            bucket = [g for g in gradients if g.dtype == dtype]
            mean = self.mean(torch.cat([g.flatten() for g in bucket]))
            for gradient, part in zip(bucket, torch.split(mean, [g.numel() for g in bucket]), strict=True):
                gradient.copy_(part.view(gradient.shape))

    @torch.no_grad()
    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Copy the values of the first process to all processes, in place."""
        if self.count == 1:
            return
        with _connection_errors():
            for tensor in tensors:
                buffer = tensor.contiguous()
                distributed.broadcast(buffer, 0)
                tensor.copy_(buffer)

    def largest_so_far(self, number: int) -> int:
        """Return the largest number that any process passed to the previous call; with one process, `number` itself.

        No process waits for the exchange that it starts, so a call in every step costs almost nothing, and all
        processes get the same result.
        """
        if self.count == 1:
            return number
        with _connection_errors():
            previous = self._finish_pending()
            buffer = torch.tensor(number)
            work = distributed.all_reduce(buffer, distributed.ReduceOp.MAX, group=self._cpu_group, async_op=True)
            assert work is not None
            self._pending = work, buffer
        return previous

    def largest(self, number: int) -> int:
        """Return the largest number that any process passes to this or passed to the previous call; all wait for it."""
        previous = self.largest_so_far(number)
        with _connection_errors():
            return max(previous, self._finish_pending())

    def _finish_pending(self) -> int:
        """Return the result of the exchange in progress; 0 if there is no such exchange."""
        if self._pending is None:
            return 0
        work, largest = self._pending
        work.wait()
        self._pending = None
        return int(largest)

    def wait(self) -> None:
        """Wait until all processes have reached this call."""
        with _connection_errors():
            self._accelerator.wait_for_everyone()


def _leave() -> None:
    """Destroy the process group before Python ends, because its threads would sometimes abort the process."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def _connection_errors() -> Iterator[None]:
    """Turn the errors of torch.distributed into a TrainingError."""
    try:
        yield
    except RuntimeError as error:  # torch.distributed has no common class for its errors
        raise TrainingError(
            f"another process of this training is gone or does not answer ({one_line(error)[:200]})",
            remedy="see its last messages; started again, the training continues from its newest checkpoint",
        ) from error
