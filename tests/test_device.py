import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_cuda import fake_cuda

from sfplus.device import Device, choose_device, memory_errors, to_host
from sfplus.errors import DeviceError, SfplusError, TrainingError, UsageError

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")


def test_the_cpu_can_always_be_chosen() -> None:
    device = choose_device("cpu")
    assert str(device) == "cpu" and not device.is_cuda and "thread" in device.describe()
    assert choose_device(device) is device


@pytest.mark.parametrize(("threads", "text"), [(1, "cpu, 1 thread, AVX512"), (2, "cpu, 2 threads, AVX512")])
def test_the_description_of_the_cpu_has_what_decides_the_order_of_sums(
    monkeypatch: pytest.MonkeyPatch, threads: int, text: str
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert choose_device("cpu").describe() == text


@needs_no_gpu
def test_auto_without_a_gpu_is_the_cpu() -> None:
    assert choose_device("auto").torch == torch.device("cpu")


@needs_gpu
def test_auto_with_a_gpu_is_the_first() -> None:
    assert choose_device("auto").torch == torch.device("cuda", 0)


@needs_no_gpu
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:3"])
def test_a_missing_gpu_is_an_error(name: str) -> None:
    with pytest.raises(DeviceError, match=f"'{name}' does not exist"):
        choose_device(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:0", "", "cuda:-1", "mps"])
def test_unknown_device_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no device is called"):
        choose_device(name)


def test_networks_are_moved_in_channels_last() -> None:
    network = choose_device("cpu").move(torch.nn.Conv2d(3, 8, 3))
    assert network.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_default_precision_of_the_cpu_is_float32() -> None:
    with choose_device("cpu").autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert Device(torch.device("cpu")).put(torch.ones(1)).device.type == "cpu"


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_precision_is_that_of_the_device_inside_an_autocast_of_the_program(
    precision: str, dtype: torch.dtype
) -> None:
    outer = torch.autocast("cpu", torch.bfloat16 if precision == "float32" else torch.float16)
    with outer, choose_device("cpu").autocast(precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bf16", torch.bfloat16)])
def test_gradients_on_the_cpu_are_float32_in_all_precisions(precision: str, dtype: torch.dtype) -> None:
    """Gradients of parameters are close to those of pure float32."""
    device = choose_device("cpu")
    torch.manual_seed(0)
    network = device.move(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.PReLU(8), torch.nn.Conv2d(8, 4, 3)))
    images = device.put(torch.randn(2, 3, 12, 12))
    expected = torch.autograd.grad(network(images).square().sum(), list(network.parameters()))
    with device.autocast(precision):
        output = network(images)
    assert output.dtype == dtype and output.is_contiguous(memory_format=torch.channels_last)
    gradients = torch.autograd.grad(output.float().square().sum(), list(network.parameters()))
    for gradient, reference in zip(gradients, expected, strict=True):
        assert gradient.dtype == torch.float32
        assert float((gradient - reference).norm() / reference.norm()) <= (0.02 if precision == "bf16" else 0)


@pytest.mark.parametrize("precision", ["fp16", "half"])
def test_unsupported_precisions_are_refused(precision: str) -> None:
    with pytest.raises(UsageError, match=r"use .*bf16"):
        choose_device("cpu").autocast(precision)
    with pytest.raises(UsageError, match=r"use .*bf16"):
        choose_device("cpu").scaler(precision)


def test_only_fp16_needs_a_scaler() -> None:
    device = choose_device("cpu")
    assert [device.scaler(precision) for precision in ("auto", "float32", "bf16")] == [None] * 3


@needs_gpu
@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_autocast_on_a_gpu_has_the_requested_precision(precision: str, dtype: torch.dtype) -> None:
    device = choose_device("cuda")
    with device.autocast(precision):
        assert (torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")).dtype == dtype
    assert (device.scaler(precision) is not None) == (precision == "fp16")


def test_only_floating_point_images_become_channels_last() -> None:
    device = choose_device("cpu")
    images, pixels, table = torch.randn(2, 3, 4, 5), torch.zeros(2, 4, 5, 3, dtype=torch.uint8), torch.randn(3, 4).T
    assert device.put(images).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(device.put(images), images)
    assert device.put(pixels).is_contiguous() and device.put(table).stride() == table.stride()


def test_a_copy_to_the_host_waits_for_its_own_event_only(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    event = SimpleNamespace(
        record=lambda stream: log.append(f"record {stream}"), synchronize=lambda: log.append("wait")
    )
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "stream")
    with fake_cuda():
        wait = Device(torch.device("cuda")).fetch(torch.zeros(3, device="cuda"))
        assert log == ["record stream"]
        assert wait().device.type == "cpu" and log == ["record stream", "wait"]


def test_a_tensor_on_the_host_is_not_copied() -> None:
    tensor = torch.arange(3)
    assert choose_device("cpu").fetch(tensor)() is tensor


@pytest.mark.gpu
def test_work_that_is_queued_later_is_not_waited_for() -> None:
    gpu = choose_device("cuda")
    matrix = torch.rand(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    wait = gpu.fetch(matrix.sum())
    for _ in range(200):
        matrix @ matrix
    done = torch.cuda.Event()
    done.record()
    assert wait().item() > 0 and not done.query()


GPUS = {"GTX 1080": (6, 1), "P100": (6, 0), "V100": (7, 0), "T4": (7, 5), "A100": (8, 0), "H100": (9, 0)}


@pytest.fixture
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Device:
    """A GPU as torch describes it: bf16 is supported by all, on older ones because torch emulates it."""
    major, minor = GPUS[request.param]

    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return including_emulation or major >= 8

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (major, minor))
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    return Device(torch.device("cuda", 0))


AUTO = [
    ("GTX 1080", "float32", "float32"), ("P100", "float32", "float32"), ("V100", "fp16", "float32"),
    ("T4", "fp16", "float32"), ("A100", "bf16", "bf16"), ("H100", "bf16", "bf16"),
]  # fmt: skip


@pytest.mark.parametrize(("gpu", "with_scaler", "without"), AUTO, indirect=["gpu"])
def test_auto_is_the_fastest_precision_that_a_gpu_computes_natively(
    gpu: Device, with_scaler: str, without: str
) -> None:
    """Autocast and scaler agree about it."""
    assert (gpu.precision(), gpu.precision("auto", fp16=False)) == (with_scaler, without)
    assert (gpu.scaler("auto") is not None) == (with_scaler == "fp16")
    context: Any = gpu.autocast("auto")
    dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16}
    assert (context.fast_dtype if context._enabled else None) == dtypes.get(with_scaler)
    reason = ", because fp16 needs a gradient scaler, which this training does not have"
    assert gpu.describe_precision() == with_scaler
    assert gpu.describe_precision(fp16=False) == without + (reason if with_scaler == "fp16" else "")


@pytest.mark.parametrize("gpu", ["V100", "H100"], indirect=True)
def test_a_requested_precision_is_not_replaced(gpu: Device) -> None:
    for name in ("float32", "bf16", "fp16"):
        assert gpu.precision(name) == gpu.describe_precision(name, fp16=False) == name


@pytest.mark.parametrize("current", [0, 1])
def test_precisions_are_those_of_the_device_not_of_the_current_gpu(
    current: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two GPUs supports bf16."""
    selected = [current]

    @contextlib.contextmanager
    def select(device: torch.device) -> Iterator[None]:
        previous, selected[0] = selected[0], device.index
        yield
        selected[0] = previous

    monkeypatch.setattr(torch.cuda, "device", select)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: selected[0] == 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 0))
    first, second = (Device(torch.device("cuda", index)) for index in range(2))
    assert (first.precision(), second.precision(), second.precision("bf16")) == ("fp16", "bf16", "bf16")
    with pytest.raises(UsageError, match="cuda:0 does not support bf16; use float32"):
        first.precision("bf16")
    assert selected == [current]


NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    MemoryError(),
    MemoryError("Unable to allocate 7.28 TiB for an array"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=repr)
def test_a_lack_of_memory_is_one_line_with_a_remedy(error: Exception) -> None:
    with pytest.raises(TrainingError) as caught, memory_errors("use a smaller batch_size", TrainingError):
        raise error
    text = str(caught.value)
    assert text.startswith("not enough memory (") and text.endswith("; use a smaller batch_size") and "\n" not in text
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 cannot be multiplied"), ValueError("x"), OSError(28, "x")]
)
def test_other_errors_are_not_about_memory(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, memory_errors("use a smaller batch_size"):
        raise error
    assert caught.value is error and not isinstance(error, SfplusError)


def test_a_real_lack_of_memory_of_the_machine() -> None:
    with pytest.raises(SfplusError, match=r"not enough memory \(.*allocate.*\); less"), memory_errors("less"):
        torch.empty(1 << 60, dtype=torch.uint8)


def test_tensors_of_a_gpu_are_copied_with_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    with fake_cuda():
        tensors = [torch.randn(3, device="cuda", requires_grad=True) for _ in range(5)]
        copies = to_host([*tensors, torch.ones(2)])
    assert [copy.device.type for copy in copies] == ["cpu"] * 6 and len(waits) == 1


def test_tensors_of_the_host_are_not_copied() -> None:
    tensor = torch.ones(3)
    assert to_host([tensor])[0].data_ptr() == tensor.data_ptr()


def test_pinning_is_for_gpus() -> None:
    tensor = torch.ones(3)
    assert choose_device("cpu").pin(tensor) is tensor
