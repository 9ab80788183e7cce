"""The choice of the device, its memory format and its autocast dtype."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from sfplus.errors import DeviceError, UsageError


@dataclass(frozen=True)
class Device:
    """A device of this machine, with its memory format and precisions.

    Attributes:
        torch: the torch device, for example `cuda:0`.
    """

    torch: torch.device

    def __str__(self) -> str:
        return str(self.torch)

    @property
    def is_cuda(self) -> bool:
        """True for a GPU."""
        return self.torch.type == "cuda"

    def describe(self) -> str:
        """Return a description for the user: `cpu, 2 threads` or `cuda:0, NVIDIA H100`."""
        if self.is_cuda:
            return f"{self.torch}, {torch.cuda.get_device_name(self.torch)}"
        threads = torch.get_num_threads()
        return f"cpu, {threads} thread{'s' * (threads != 1)}"

    def put(self, tensor: Tensor) -> Tensor:
        """Copy a host tensor to the device; to a GPU from pinned memory, without waiting.

        Floating-point (N, C, H, W) tensors become channels_last, like the convolutions of `move`.
        """
        images = tensor.ndim == 4 and tensor.is_floating_point()
        layout = torch.channels_last if images else torch.preserve_format
        if self.is_cuda and not tensor.is_cuda:
            return tensor.pin_memory().to(self.torch, non_blocking=True, memory_format=layout)
        return tensor.to(self.torch, memory_format=layout)

    def fetch(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Start to copy a tensor to the host, and return a function that waits for this copy alone and returns it.

        A GPU makes the copy once it has computed the tensor. Work that is queued later is not waited for.
        """
        copy = tensor.to("cpu", non_blocking=True)  # to pinned memory
        if not tensor.is_cuda:
            return lambda: copy
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(tensor.device))

        def wait() -> Tensor:
            event.synchronize()
            return copy

        return wait

    def move(self, module: nn.Module) -> nn.Module:
        """Move a network to the device, in channels_last, the faster memory format on CPU and GPU."""
        return module.to(self.torch, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def autocast(self, precision: str = "auto") -> contextlib.AbstractContextManager[object]:
        """Return the autocast context of a precision.

        Args:
            precision: `auto`: bfloat16 on a GPU that supports it, else float32; `float32`: no autocast; `bf16`:
                bfloat16, also on CPUs; `fp16`: float16 on GPUs, which needs `scaler`.

        Raises:
            UsageError: If the precision is unknown, or the device does not support it.
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
            raise UsageError(f"{self} does not support {precision}", where="precision", remedy=remedy)
        raise UsageError(f"'{precision}' is not supported", where="precision", remedy="use auto, float32, bf16 or fp16")

    def scaler(self, precision: str) -> GradScaler | None:
        """Return a gradient scaler for `fp16`, and None for the other precisions, which need none.

        Raises:
            UsageError: If the precision is unknown, or the device does not support it.
        """
        self.autocast(precision)
        return GradScaler("cuda") if precision == "fp16" else None


def choose_device(name: str | Device = "auto") -> Device:
    """Return the requested device; there is no silent fallback.

    Args:
        name: `auto` (first GPU, else CPU), `cpu`, `cuda`, `cuda:N`, or a `Device`, which is returned unchanged.

    Raises:
        UsageError: If the name is none of these.
        DeviceError: If the machine has no such device.
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
        available = f"{count} GPU{'s' * (count != 1)}" if count else "no GPU that torch can use"
        reason = f"'{name}' does not exist, this machine has {available}"
        raise DeviceError(reason, where="device", remedy="use device cpu or auto")
    return Device(torch.device("cuda", int(index or 0)))


def local_device(name: str) -> str:
    """Return the name of this process's device: processes that a launcher started together take a GPU each."""
    if name in ("auto", "cuda") and int(os.environ.get("WORLD_SIZE", "1")) > 1 and (count := torch.cuda.device_count()):
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % count}"
    return name


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next pass, which saves 8 % of a training step of SphereFace-20 on a CPU.

    By default glibc requests blocks above 32 MB from the system each time, page by page, and returns freed ones
    (mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD). On other systems this does nothing.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(-4, 0)
        mallopt(-1, -1)
