"""The processes of a training: a single one, or those that `accelerate launch` or torchrun started."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, distributed, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from sfplus.device import Device
from sfplus.errors import TrainingError, UsageError, one_line
from sfplus.hypersphere.collectives import all_gather
from sfplus.io.prefetch import batch_by_size

_BUCKET = 1 << 24  # numbers in a broadcast
_RELEASE_SECONDS = 0.2  # a thread that is ready waits some milliseconds for a core, also on a busy machine


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
        with connection_errors():
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
        """Describe what decides the order of sums, as in `2 processes, each on cpu, 1 thread, AVX2`."""
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
        with connection_errors():
            mean: Tensor = self._accelerator.reduce(tensor, "mean")
        return mean

    def gather(self, tensor: Tensor) -> Tensor:
        """Concatenate the tensors (n, ...) of all processes in the order of the global batch, without gradient.

        Returns:
            (count * n, ...).
        """
        if self.count == 1:
            return tensor
        gathered = tensor.new_empty(self.count * len(tensor), *tensor.shape[1:])
        with connection_errors():
            all_gather(gathered, tensor.contiguous())
        return gathered

    @torch.no_grad()
    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Copy the values of the first process to all processes, in place."""
        if self.count == 1:
            return
        kinds: dict[object, list[Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        for kind in kinds.values():
            for bucket in batch_by_size(kind, Tensor.numel, _BUCKET, len(kind)):
                buffer = torch.cat([tensor.flatten() for tensor in bucket])
                with connection_errors():
                    distributed.broadcast(buffer, 0)
                for tensor, part in zip(bucket, buffer.split([t.numel() for t in bucket]), strict=True):  # type: ignore[no-untyped-call]
                    tensor.copy_(part.view(tensor.shape))

    def prepare(self, module: nn.Module, *, local: Iterable[str] = (), unused: bool = False) -> nn.Module:
        """Return the module to call in training: its backward pass replaces gradients by their mean over the processes.

        The mean is the gradient of the global batch. With one process this is `module` itself. With several, Accelerate
        wraps it in DistributedDataParallel, which exchanges gradients while backward computes those of earlier layers.
        Optimizers and checkpoints keep the parameters of `module`, whose names do not change. Buffers stay those of
        each process.

        Args:
            module: the module; moved to the device. Its parameters may also be used outside of its forward pass.
            local: names of parameters and buffers that belong to each process alone, such as those of a shard.
            unused: True if some parameters have no part in the output; DDP then looks for them in each step.
        """
        local = set(local)
        trained = [p for name, p in module.named_parameters() if p.requires_grad and name not in local]
        if self.count == 1 or not trained:
            return module
        wrapper = _Rehearsable(self.device.move(module), trained)
        names = [f"module.{name}" for name in local]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(wrapper, names)  # type: ignore[no-untyped-call]
        self._accelerator.ddp_handler = DistributedDataParallelKwargs(
            gradient_as_bucket_view=True, find_unused_parameters=unused
        )
        with connection_errors():
            prepared: Any = self._accelerator.prepare_model(wrapper)
            prepared.broadcast_buffers = False  # deprecated as an argument; Accelerate does not know its successor
            if not unused:
                prepared(None).backward()
        for parameter in trained:
            parameter.grad = None
        model: nn.Module = prepared
        return model

    def no_exchange(self, module: nn.Module) -> AbstractContextManager[Any]:
        """Return a context in which passes through a prepared module only add up gradients; the next pass exchanges."""
        context: AbstractContextManager[Any] = self._accelerator.no_sync(module)
        return context

    def scaler(self, precision: str) -> GradScaler | None:
        """Return a gradient scaler for fp16, else None; a step is skipped if a gradient overflows in any process.

        Averaged gradients overflow in all processes at once, those of a shard in one.
        """
        scaler = self.device.scaler(precision)
        if scaler is None or self.count == 1:
            return scaler
        # imports slowly, and is needed here only
        from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

        return ShardedGradScaler(self.device.torch.type, process_group=None)

    def largest_so_far(self, number: int) -> int:
        """Return the largest number that any process passed to the previous call; with one process, `number` itself.

        No process waits for the exchange that it starts, so a call in every step costs almost nothing, and all
        processes get the same result.
        """
        if self.count == 1:
            return number
        with connection_errors():
            previous = self._finish_pending()
            buffer = torch.tensor(number)
            work = distributed.all_reduce(buffer, distributed.ReduceOp.MAX, group=self._cpu_group, async_op=True)
            assert work is not None
            self._pending = work, buffer
        return previous

    def largest(self, number: int) -> int:
        """Return the largest number that any process passes to this or passed to the previous call; all wait for it."""
        previous = self.largest_so_far(number)
        with connection_errors():
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
        with connection_errors():
            self._accelerator.wait_for_everyone()


def _leave() -> None:
    """Destroy the process group, and let its threads finish before Python ends.

    DDP keeps the threads of gloo alive. One that releases a tensor while Python ends would abort the process: wait()
    returns before the thread has released the tensors of that exchange.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()
        time.sleep(_RELEASE_SECONDS)


class _Rehearsable(nn.Module):
    """A module that can rehearse its backward pass: for None it returns the sum of its parameters.

    DDP divides gradients into buckets anew after its first backward pass, in the order in which they arrived, and a sum
    over three or more processes depends on the position in a bucket. The rehearsal precedes step 1, so that a run that
    is continued has the buckets of one that was not interrupted. Gradients arrive in the reverse order of the
    parameters, about that of a backward pass.
    """

    def __init__(self, module: nn.Module, trained: list[nn.Parameter]) -> None:
        super().__init__()
        self.module, self._trained = module, trained

    def forward(self, *inputs: Any) -> Any:
        if inputs[0] is not None:  # on a GPU, DDP does not accept a call without arguments
            return self.module(*inputs)
        total: Any = 0
        for parameter in self._trained:
            total = total + parameter.sum()
        return total


def has_unused_parameters(network: nn.Module, size: tuple[int, int, int]) -> bool:
    """Return True if the output of a network for an image (C, H, W) does not depend on all trained parameters."""
    trained = {p for p in network.parameters() if p.requires_grad}
    modes = [(module, module.training) for module in network.modules()]  # some may be frozen in evaluation mode
    first = next(network.parameters())
    try:
        with torch.enable_grad():  # in evaluation mode, in which a pass changes no buffer and draws nothing
            pending = [network.eval()(first.new_zeros(1, *size)).grad_fn]
    finally:
        for module, mode in modes:
            module.training = mode
    visited = set(pending)
    while pending:
        node = pending.pop()
        trained.discard(getattr(node, "variable", None))
        following = {parent for parent, _ in node.next_functions if parent is not None} - visited if node else set()
        visited |= following
        pending += following
    return bool(trained)


@contextmanager
def connection_errors() -> Iterator[None]:
    """Turn the errors of torch.distributed into a TrainingError; other errors pass unchanged.

    Errors of its own have the base class DistError. gloo's are plain RuntimeErrors that name a file of its source.

    Raises:
        TrainingError: If another process is gone or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and not (type(error) is RuntimeError and "gloo/" in str(error)):
            raise
        raise TrainingError(
            f"another process of this training is gone or does not answer ({one_line(error)[:200]})",
            remedy="see its last messages; started again, the training continues from its newest checkpoint",
        ) from error
