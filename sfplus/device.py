"""The one place that chooses the device, its memory format and its autocast type, and says so."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
        """Copy a host tensor here; from pinned memory and without waiting where the device is a GPU."""
        if self.is_cuda and not tensor.is_cuda:
            return tensor.pin_memory().to(self.torch, non_blocking=True)
        return tensor.to(self.torch)

    def place(self, module: nn.Module) -> nn.Module:
        """Move a network here, its convolutions in channels_last, which is the faster layout on CPU and GPU."""
        return module.to(self.torch, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """bfloat16 autocast on a GPU that has it; nothing on the CPU, whose float32 is the reference."""
        if self.is_cuda and torch.cuda.is_bf16_supported():
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return contextlib.nullcontext()


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
