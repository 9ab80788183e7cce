"""The processes of a training: one, or those that `accelerate launch` or torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sfplus.device import Device
from sfplus.errors import UsageError


class Processes:
    """All processes of a training run the same program; each computes its share of every batch.

    In one process nothing is ever sent, and every method returns what it was given.

    Args:
        device: where to compute; with several processes on GPUs each takes its own.

    Attributes:
        count: how many there are.
        rank: which this one is, from 0.
        device: where this one computes.
    """

    def __init__(self, device: Device) -> None:
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        self._accelerator = Accelerator(cpu=several and not device.is_cuda, mixed_precision="no")
        self.count: int = self._accelerator.num_processes
        self.rank: int = self._accelerator.process_index
        self.device = Device(self._accelerator.device) if self.count > 1 and device.is_cuda else device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """Which samples of a global batch are this process's.

        Raises:
            UsageError: the batch cannot be divided among the processes.
        """
        if batch_size % self.count:
            what = f"{batch_size} samples cannot be divided among {self.count} processes"
            raise UsageError(what, where="batch_size", remedy="use a multiple of the number of processes")
        size = batch_size // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over the processes, element by element."""
        mean: Tensor = tensor if self.count == 1 else self._accelerator.reduce(tensor, "mean")
        return mean

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors (n, ...) of all processes, (count * n, ...), in the order of the global batch; no gradient."""
        gathered: Tensor = tensor if self.count == 1 else self._accelerator.gather(tensor)
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

    def wait(self) -> None:
        """Return when all processes are here."""
        self._accelerator.wait_for_everyone()
