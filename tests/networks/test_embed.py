from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_cuda import fake_cuda

from sfplus.device import Device, choose_device
from sfplus.errors import SfplusError, UsageError, WeightsError
from sfplus.networks import create
from sfplus.networks.embed import _compute_features, default_batch_size, embed_batches, embed_crops
from sfplus.networks.normalize import normalize_crops
from sfplus.networks.preprocessing import PRESETS

CPU, GPU = choose_device("cpu"), Device(torch.device("cuda"))


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return create("sphereface10", feature_size=16, width=0.125)


@pytest.fixture(scope="module")
def crops() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (11, 112, 96, 3), dtype=np.uint8))


def test_each_feature_is_followed_by_that_of_the_mirror_image(network: torch.nn.Module, crops: torch.Tensor) -> None:
    features = embed_crops(network, crops, CPU, batch_size=4)
    assert features.shape == (11, 32) and features.dtype == np.float32
    with torch.inference_mode():
        for index, crop in enumerate(crops):
            pair = np.stack([crop.numpy(), crop.numpy()[:, ::-1]])
            expected = network(normalize_crops(torch.from_numpy(pair))).numpy().ravel()
            np.testing.assert_allclose(features[index], expected, atol=1e-5 * np.linalg.norm(expected))
    plain = embed_crops(network, crops, CPU, preprocessing=replace(PRESETS["sphereface"], mirror=False))
    np.testing.assert_allclose(plain, features[:, :16], atol=1e-5 * np.abs(features).max())


def test_features_do_not_depend_on_the_batch(network: torch.nn.Module, crops: torch.Tensor) -> None:
    features = embed_crops(network, crops, CPU, batch_size=11)
    length = np.linalg.norm(features, axis=1).mean()
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    shuffled = embed_crops(network, crops[order], CPU, batch_size=11)
    np.testing.assert_allclose(shuffled, features[order.numpy()], atol=1e-6 * length)
    for batch_size in (1, 3, 64):
        rebatched = embed_crops(network, crops, CPU, batch_size=batch_size)
        np.testing.assert_allclose(rebatched, features, atol=1e-6 * length)
    np.testing.assert_array_equal(embed_crops(network, crops, CPU, batch_size=11), features)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(value: float, crops: torch.Tensor) -> None:
    network = create("sphereface4", feature_size=4, width=0.125)
    with torch.no_grad():
        network.get_parameter("fc5.bias")[1] = value
    with pytest.raises(WeightsError, match="computes features that are not finite numbers"):
        embed_crops(network, crops, CPU)


def test_embed_batches_returns_the_same_features_as_embed_crops(network: torch.nn.Module, crops: torch.Tensor) -> None:
    network.train()
    iterator = embed_batches(network, torch.split(crops, 4), CPU)
    parts = [next(iterator)]
    assert not network.training  # until the iterator ends
    parts += iterator
    assert [len(part) for part in parts] == [4, 4, 3] and network.training
    np.testing.assert_array_equal(np.concatenate(parts), embed_crops(network, crops, CPU, batch_size=4))
    network.eval()


def test_batches_are_requested_when_they_are_needed(network: torch.nn.Module, crops: torch.Tensor) -> None:
    requested = []

    def batches() -> Iterator[torch.Tensor]:
        for number in range(1000):
            requested.append(number)
            yield crops[:1]

    iterator = embed_batches(network, batches(), CPU)
    for _ in range(3):
        next(iterator)
    assert len(requested) == 4  # one is being computed
    iterator.close()


def test_the_default_batch_size_is_used(network: torch.nn.Module, crops: torch.Tensor) -> None:
    assert default_batch_size(CPU) == 8 and default_batch_size(CPU, mirror=False) == 16
    np.testing.assert_array_equal(embed_crops(network, crops, CPU), embed_crops(network, crops, CPU, batch_size=8))


def test_bfloat16_is_close_to_float32_but_not_equal(network: torch.nn.Module, crops: torch.Tensor) -> None:
    features = embed_crops(network, crops, CPU)
    half = embed_crops(network, crops, CPU, dtype="bfloat16")
    assert half.dtype == np.float32
    error = np.linalg.norm(half - features, axis=1) / np.linalg.norm(features, axis=1)
    assert error.min() > 1e-4 and error.max() < 0.01
    with pytest.raises(UsageError, match="use float32 or bfloat16"):
        embed_crops(network, crops, CPU, dtype="float16")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="has no effect on a model"):
        embed_crops(torch.nn.Flatten(), crops, CPU, dtype="bfloat16")


class LoggingDevice(Device):
    """A device that logs what it is asked to do; `fetch` returns a copy, as a GPU does."""

    log: list[str]

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        self.log.append("queue")
        return tensor

    def fetch(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        self.log.append("fetch")
        return lambda: (self.log.append("wait"), tensor)[1]


def test_the_next_batch_is_queued_before_the_features_of_the_last_are_waited_for(
    network: torch.nn.Module, crops: torch.Tensor
) -> None:
    device = LoggingDevice(torch.device("cpu"))
    object.__setattr__(device, "log", [])
    parts = list(embed_batches(network, torch.split(crops, 4), device))
    assert device.log == ["queue", "fetch", "queue", "fetch", "wait", "queue", "fetch", "wait", "wait"]
    np.testing.assert_array_equal(np.concatenate(parts), embed_crops(network, crops, CPU, batch_size=4))


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("preset", ["sphereface", "imagenet"])
def test_features_are_computed_on_the_device_without_waiting(preset: str, mirror: bool) -> None:
    preprocessing = replace(PRESETS[preset], mirror=mirror)
    with fake_cuda() as gpu:
        with gpu.copies():
            network = create("sphereface10", feature_size=16, width=0.125).to("cuda").eval()
        crops = torch.zeros(6, 112, 96, 3, dtype=torch.uint8, device="cuda")
        features = _compute_features(network, crops, GPU, preprocessing, "float32")
        assert features.is_cuda and features.dtype == torch.float32
        assert features.shape == (6, 32 if preprocessing.mirror else 16)
        with gpu.copies():
            network.to("cpu")
        with pytest.raises(RuntimeError, match="same device"):
            _compute_features(network, crops, GPU, preprocessing, "float32")


@pytest.mark.gpu
def test_the_features_of_a_gpu_are_those_of_the_cpu(network: torch.nn.Module, crops: torch.Tensor) -> None:
    """In float32, also if the program allows TF32."""
    expected = embed_crops(network, crops, CPU, batch_size=4)
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        features = embed_crops(network, crops, GPU, batch_size=4)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
        CPU.move(network)
    np.testing.assert_allclose(features, expected, atol=2e-5 * np.linalg.norm(expected, axis=1).mean())


def test_too_little_memory_is_one_line_with_a_remedy(crops: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hungry(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")

    message = r"^not enough memory \(CUDA out of .* GiB.\); "
    with pytest.raises(SfplusError, match=message + "use a smaller batch_size$"):
        embed_crops(Hungry(), crops, CPU)
    with pytest.raises(SfplusError, match=message + "close other programs$"):
        list(embed_batches(Hungry(), [crops], CPU))
    monkeypatch.setattr(Device, "is_cuda", True)
    monkeypatch.setattr(Device, "put", lambda self, tensor: tensor)
    with pytest.raises(SfplusError, match=message + "use a smaller batch_size or device cpu$"):
        embed_crops(Hungry(), crops, CPU)
    with pytest.raises(SfplusError, match=message + "use device cpu$"):
        list(embed_batches(Hungry(), [crops], CPU))
