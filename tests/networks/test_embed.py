from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from sfplus.device import choose_device
from sfplus.errors import UsageError
from sfplus.networks import create
from sfplus.networks.embed import default_batch_size, embed_batches, embed_crops
from sfplus.networks.normalize import normalize_crops
from sfplus.networks.preprocessing import PRESETS

CPU = choose_device("cpu")


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
