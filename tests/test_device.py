from types import SimpleNamespace

import pytest
import torch
from fake_cuda import fake_cuda

from sfplus.device import Device, choose_device
from sfplus.errors import DeviceError, UsageError

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")


def test_the_cpu_can_always_be_chosen() -> None:
    device = choose_device("cpu")
    assert str(device) == "cpu" and not device.is_cuda and "thread" in device.describe()
    assert choose_device(device) is device


@pytest.mark.parametrize(("threads", "text"), [(1, "cpu, 1 thread"), (2, "cpu, 2 threads")])
def test_the_description_of_the_cpu_counts_threads(monkeypatch: pytest.MonkeyPatch, threads: int, text: str) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
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
