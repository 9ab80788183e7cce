"""The one place that chooses the device, its memory format and its autocast type, and says so."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from sfplus.errors import DeviceError, UsageError


@dataclass(frozen=True)
class Device:
    """A device that exists on this machine, with the ways of using it well.

    Attributes:
        torch: the torch device, for example `cuda:0`.
    """

    torch: torch.device

    def __str__(self) -> str:
        return str(self.torch)

    @property
    def is_cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.torch.type == "cuda"

    def describe(self) -> str:
        """What the user is told: `cpu, 2 threads` or `cuda:0, NVIDIA H100`."""
        if self.is_cuda:
            return f"{self.torch}, {torch.cuda.get_device_name(self.torch)}"
        return f"cpu, {torch.get_num_threads()} threads"

    def put(self, tensor: Tensor) -> Tensor:
        """Copy a host tensor here; from pinned memory and without waiting where the device is a GPU.

        Floating (N, C, H, W) are images or maps and come in channels_last, as `place` has the convolutions.
        """
        images = tensor.ndim == 4 and tensor.is_floating_point()
        layout = torch.channels_last if images else torch.preserve_format
        if self.is_cuda and not tensor.is_cuda:
            return tensor.pin_memory().to(self.torch, non_blocking=True, memory_format=layout)
        return tensor.to(self.torch, memory_format=layout)

    def place(self, module: nn.Module) -> nn.Module:
        """Move a network here, its convolutions in channels_last, which is the faster layout on CPU and GPU."""
        return module.to(self.torch, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def autocast(self, precision: str = "auto") -> contextlib.AbstractContextManager[object]:
        """The context in which a network computes.

        Args:
            precision: `auto`, which is bfloat16 autocast on a GPU that has it and nothing on the CPU, whose float32 is
                the reference; `float32`; `bf16`, which a CPU has too; `fp16`, on GPUs, which needs `scaler`.

        Raises:
            UsageError: it is none of these, or the device has it not.
        """
        if precision == "auto":
            precision = "bf16" if self.is_cuda and torch.cuda.is_bf16_supported() else "float32"
        if precision == "float32":
            return contextlib.nullcontext()
        if precision == "bf16" and not (self.is_cuda and not torch.cuda.is_bf16_supported()):
            return torch.autocast(self.torch.type, dtype=torch.bfloat16)
        if precision == "fp16" and self.is_cuda:
            return torch.autocast("cuda", dtype=torch.float16)
        if precision in ("bf16", "fp16"):
            remedy = "use float32" if self.is_cuda else "use bf16 or float32"
            raise UsageError(f"{self} does not compute in {precision}", where="precision", remedy=remedy)
        raise UsageError(f"there is no '{precision}'", where="precision", remedy="use auto, float32, bf16 or fp16")

    def scaler(self, precision: str) -> GradScaler | None:
        """What keeps small gradients above zero in `fp16`; None for the other precisions, which need none.

        Raises:
            UsageError: as `autocast`.
        """
        self.autocast(precision)
        return GradScaler("cuda") if precision == "fp16" else None


def choose_device(name: str | Device = "auto") -> Device:
    """Find the device that was asked for; never falls back silently.

    Args:
        name: `auto` (first GPU, else CPU), `cpu`, `cuda` or `cuda:N`.

    Raises:
        UsageError: the name is none of these.
        DeviceError: the machine has no such device.
    """
    if isinstance(name, Device):
        return name
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()) or (kind == "cpu" and index):
        raise UsageError(f"no device is called '{name}'", where="device", remedy="use auto, cpu, cuda or cuda:N")
    if kind == "cpu":
        return Device(torch.device("cpu"))
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= count:
        have = f"{count} GPU{'s' * (count != 1)}" if count else "no GPU that torch can use"
        raise DeviceError(
            f"'{name}' was asked for, this machine has {have}", where="device", remedy="use device cpu or auto"
        )
    return Device(torch.device("cuda", int(index or 0)))


def keep_freed_memory() -> None:
    """Let glibc keep the memory of one pass for the next, 8 % of the time of a training step of SphereFace-20 on a CPU.

    It gets blocks above 32 MB from the system each time, to be faulted in page by page, and hands freed ones back
    (mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD). Elsewhere this does nothing.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(-4, 0)
        mallopt(-1, -1)
