import pytest
import torch

from sfplus.device import Device, choose_device
from sfplus.errors import DeviceError, UsageError

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")


def test_cpu() -> None:
    device = choose_device("cpu")
    assert str(device) == "cpu" and not device.is_cuda and "threads" in device.describe()
    assert choose_device(device) is device


@needs_no_gpu
def test_auto_without_a_gpu_is_the_cpu() -> None:
    assert choose_device("auto").torch == torch.device("cpu")


@needs_gpu
def test_auto_with_a_gpu_is_the_first() -> None:
    assert choose_device("auto").torch == torch.device("cuda", 0)


@needs_no_gpu
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:3"])
def test_a_missing_gpu_is_an_error_never_the_cpu(name: str) -> None:
    with pytest.raises(DeviceError, match=f"'{name}' was asked for"):
        choose_device(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:0", "", "cuda:-1", "mps"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(UsageError, match="no device is called"):
        choose_device(name)


def test_networks_are_placed_in_channels_last() -> None:
    network = choose_device("cpu").place(torch.nn.Conv2d(3, 8, 3))
    assert network.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_cpu_computes_in_float32() -> None:
    with choose_device("cpu").autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert Device(torch.device("cpu")).put(torch.ones(1)).device.type == "cpu"
