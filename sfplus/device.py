"""The choice of the device, its memory format, its precision, and what a lack of memory means."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from sfplus.errors import DeviceError, SfplusError, UsageError, first_line

_NO_MEMORY = ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED")
"""Parts of the messages of torch's RuntimeErrors about memory: of CUDA, of the CPU, of cuDNN and cuBLAS."""


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
        """Return a description for the user: `cpu, 2 threads, AVX2` or `cuda:0, NVIDIA H100`.

        The threads and the instruction set of a CPU decide the order of sums, and so the last bits of every result.
        """
        if self.is_cuda:
            return f"{self.torch}, {torch.cuda.get_device_name(self.torch)}"
        threads, instructions = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
        return f"cpu, {threads} thread{'s' * (threads != 1)}, {instructions}"

    def pin(self, tensor: Tensor) -> Tensor:
        """Copy a host tensor to pinned memory, from which `put` copies to a GPU without waiting; on a CPU, do nothing.

        Call it in a thread that prepares batches: pinning copies the tensor, and may allocate.
        """
        return tensor.pin_memory() if self.is_cuda and not tensor.is_cuda else tensor

    def put(self, tensor: Tensor) -> Tensor:
        """Copy a host tensor to the device; to a GPU from pinned memory, without waiting.

        Floating-point (N, C, H, W) tensors become channels_last, like the convolutions of `move`.
        """
        images = tensor.ndim == 4 and tensor.is_floating_point()
        layout = torch.channels_last if images else torch.preserve_format
        if self.is_cuda and not tensor.is_cuda:
            pinned = tensor if tensor.is_pinned() else self.pin(tensor)
            return pinned.to(self.torch, non_blocking=True, memory_format=layout)
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

    def precision(self, name: str = "auto", fp16: bool = True) -> str:
        """Return the precision that a name stands for on this device: `float32`, `bf16` or `fp16`.

        Args:
            name: `auto`: bf16 on a GPU that computes it natively (Ampere and later), else fp16 on Volta and Turing
                (V100, T4; on the GTX 16 series, which has no tensor cores, it is still not slower than float32), else
                float32. `float32`. `bf16`: also on CPUs and on GPUs that emulate it, which is slower than float32.
                `fp16`: on GPUs.
            fp16: False if `auto` must not be fp16, which needs a gradient scaler (`scaler`) in training.

        Raises:
            UsageError: If the name is unknown, or the device does not support the precision.
        """
        if name == "auto":
            return self._fastest(fp16)
        if name == "float32" or (name == "bf16" and (not self.is_cuda or self._has_bf16(emulated=True))):
            return name
        if name == "fp16" and self.is_cuda:
            return name
        if name in ("bf16", "fp16"):
            remedy = "use float32" if self.is_cuda else "use bf16 or float32"
            raise UsageError(f"{self} does not support {name}", where="precision", remedy=remedy)
        raise UsageError(f"'{name}' is not supported", where="precision", remedy="use auto, float32, bf16 or fp16")

    def describe_precision(self, name: str = "auto", fp16: bool = True) -> str:
        """Return the precision for the user, with the reason where `auto` is slower than the GPU; see `precision`."""
        used = self.precision(name, fp16)
        if name == "auto" and used != self._fastest(True):
            return f"{used}, because fp16 needs a gradient scaler, which this training does not have"
        return used

    def _fastest(self, fp16: bool) -> str:
        if not self.is_cuda:
            return "float32"
        if self._has_bf16(emulated=False):
            return "bf16"
        return "fp16" if fp16 and torch.cuda.get_device_capability(self.torch) >= (7, 0) else "float32"

    def _has_bf16(self, emulated: bool) -> bool:
        with torch.cuda.device(self.torch):  # torch's question is about the current GPU
            return bool(torch.cuda.is_bf16_supported(including_emulation=emulated))

    def autocast(self, precision: str = "auto") -> contextlib.AbstractContextManager[object]:
        """Return the autocast context of a precision; `fp16` needs `scaler` in training.

        That of float32 disables the autocast of the program around it. Enter it anew in every step: autocast keeps
        16-bit copies of weights until its outermost context ends, see `torch.clear_autocast_cache`.

        Raises:
            UsageError: As `precision`.
        """
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision(precision))
        return torch.autocast(self.torch.type, dtype=dtype, enabled=dtype is not None)

    def scaler(self, precision: str = "auto") -> GradScaler | None:
        """Return a gradient scaler if the precision is fp16 on this device, and None if it needs none.

        Raises:
            UsageError: As `precision`.
        """
        return GradScaler(self.torch.type) if self.precision(precision) == "fp16" else None


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


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors to the host, waiting for a GPU once; tensors on the host are returned as they are.

    Copies from a GPU are in pinned memory, which torch keeps for later copies until the process ends.
    """
    copies = [tensor.detach().to("cpu", non_blocking=True) for tensor in tensors]
    for device in {tensor.device for tensor in tensors if tensor.is_cuda}:
        torch.cuda.synchronize(device)
    return copies


@contextlib.contextmanager
def memory_errors(remedy: str, kind: type[SfplusError] = SfplusError) -> Iterator[None]:
    """Turn a lack of memory, of a GPU or of the machine, into an error of one line with a remedy.

    Args:
        remedy: what to do about it, for example `use a smaller batch_size`.
        kind: class of the error.

    Raises:
        SfplusError: Of this kind, caused by the error of torch or Python. Other errors pass unchanged.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not any(text in str(error) for text in _NO_MEMORY):
            raise
        raise kind(f"not enough memory ({first_line(error) or 'of this machine'})", remedy=remedy) from error
