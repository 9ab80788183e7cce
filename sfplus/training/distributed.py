"""The processes of a training: one, or those that `accelerate launch` or torchrun started."""

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


class Processes:
    """All processes of a training run the same program; each computes its share of every batch.

    In one process nothing is ever sent, and every method returns what it was given.

    Args:
        device: where to compute; with several processes on GPUs each takes its own.
        timeout: seconds to wait for a process that is there and does not answer. One that is gone is noticed at once.

    Attributes:
        count: how many there are.
        rank: which this one is, from 0.
        device: where this one computes.

    Raises:
        TrainingError: of every method that sends: another process is gone, or does not answer.
    """

    def __init__(self, device: Device, timeout: float = 1800) -> None:
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        group = [InitProcessGroupKwargs(timeout=timedelta(seconds=timeout))] if several else []
        with _all_there():
            self._accelerator = Accelerator(
                cpu=several and not device.is_cuda, mixed_precision="no", kwargs_handlers=group
            )
        if several:
            atexit.unregister(_leave)
            atexit.register(_leave)
        self.count: int = self._accelerator.num_processes
        self.rank: int = self._accelerator.process_index
        self.device = Device(self._accelerator.device) if self.count > 1 and device.is_cuda else device
        self._words: Any = None
        """The group that answers `largest_so_far`; past the GPUs, where to read is to wait for all they have to do."""
        if several and self.device.is_cuda:
            self._words = distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
        self._asked: tuple[distributed.Work, Tensor] | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def describe(self) -> str:
        """What decides the order of sums: `2 processes, each on cpu, 1 threads`."""
        where = self.device.describe()
        return where if self.count == 1 else f"{self.count} processes, each on {where}"

    def share(self, batch_size: int, passes: int = 1) -> slice:
        """Which samples of a global batch are this process's, where it computes them in so many equal passes.

        Raises:
            UsageError: the batch cannot be divided among the processes and passes.
        """
        if batch_size % (self.count * passes):
            among = f"{self.count} processes" + (f" and {passes} passes" if passes > 1 else "")
            what = f"{batch_size} samples cannot be divided among {among}"
            raise UsageError(what, where="batch_size", remedy="use a multiple of their number")
        size = batch_size // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over the processes, element by element."""
        if self.count == 1:
            return tensor
        with _all_there():
            mean: Tensor = self._accelerator.reduce(tensor, "mean")
        return mean

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors (n, ...) of all processes, (count * n, ...), in the order of the global batch; no gradient."""
        if self.count == 1:
            return tensor
        with _all_there():
            gathered: Tensor = self._accelerator.gather(tensor)
        return gathered

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over the processes, which is that of the global batch.

        To be called between backward and the optimizer's step. Parameters without a gradient are left out; they must
        be the same ones in every process.
        """
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        for dtype in dict.fromkeys(g.dtype for g in gradients):
            own = [g for g in gradients if g.dtype == dtype]
            mean = self.mean(torch.cat([g.flatten() for g in own]))
            for gradient, part in zip(own, torch.split(mean, [g.numel() for g in own]), strict=True):
                gradient.copy_(part.view(gradient.shape))

    @torch.no_grad()
    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the values that the first has, in place."""
        if self.count == 1:
            return
        with _all_there():
            for tensor in tensors:
                sent = tensor.contiguous()
                distributed.broadcast(sent, 0)
                tensor.copy_(sent)

    def largest_so_far(self, number: int) -> int:
        """The largest number that any process gave the last time; in one process, the number itself.

        Nobody waits for the answer of this time, so it costs next to nothing in each step, and all processes get the
        same one.
        """
        if self.count == 1:
            return number
        with _all_there():
            before = self._answer()
            own = torch.tensor(number)
            work = distributed.all_reduce(own, distributed.ReduceOp.MAX, group=self._words, async_op=True)
            assert work is not None
            self._asked = work, own
        return before

    def largest(self, number: int) -> int:
        """The largest number that any process gives now or gave the last time; all wait for the answer."""
        now = self.largest_so_far(number)
        with _all_there():
            return max(now, self._answer())

    def _answer(self) -> int:
        """What came of the question that is under way; 0 where none is."""
        if self._asked is None:
            return 0
        work, largest = self._asked
        work.wait()
        self._asked = None
        return int(largest)

    def wait(self) -> None:
        """Return when all processes are here."""
        with _all_there():
            self._accelerator.wait_for_everyone()


def _leave() -> None:
    """End the process group before Python ends: its threads would now and then abort the process."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def _all_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of torch.distributed, which has no class of its own for all of them
        raise TrainingError(
            f"another process of this training is gone or does not answer ({one_line(error)[:200]})",
            remedy="see what it said last; started again, the training goes on from its newest checkpoint",
        ) from error
