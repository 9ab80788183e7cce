from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from sfplus.device import choose_device
from sfplus.errors import UsageError
from sfplus.networks import create
from sfplus.networks.embed import default_batch_size, embed_batches, embed_crops
from sfplus.networks.normalize import normalize_crops

CPU = choose_device("cpu")


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return create("sphereface10", feature_size=16, width=0.125)


@pytest.fixture(scope="module")
def crops() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (11, 112, 96, 3), dtype=np.uint8))


def test_features_stand_beside_those_of_the_mirror_image(network: torch.nn.Module, crops: torch.Tensor) -> None:
    features = embed_crops(network, crops, CPU, batch_size=4)
    assert features.shape == (11, 32) and features.dtype == np.float32
    with torch.inference_mode():
        for index, crop in enumerate(crops):
            pair = np.stack([crop.numpy(), crop.numpy()[:, ::-1]])
            expected = network(normalize_crops(torch.from_numpy(pair))).numpy().ravel()
            np.testing.assert_allclose(features[index], expected, atol=1e-5 * np.linalg.norm(expected))
    plain = embed_crops(network, crops, CPU, mirror=False)
    np.testing.assert_allclose(plain, features[:, :16], atol=1e-5 * np.abs(features).max())


def test_neighbours_in_a_batch_do_not_matter(network: torch.nn.Module, crops: torch.Tensor) -> None:
    features = embed_crops(network, crops, CPU, batch_size=11)
    length = np.linalg.norm(features, axis=1).mean()
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    shuffled = embed_crops(network, crops[order], CPU, batch_size=11)
    np.testing.assert_allclose(shuffled, features[order.numpy()], atol=1e-6 * length)
    for batch_size in (1, 3, 64):
        other = embed_crops(network, crops, CPU, batch_size=batch_size)
        np.testing.assert_allclose(other, features, atol=1e-6 * length)
    np.testing.assert_array_equal(embed_crops(network, crops, CPU, batch_size=11), features)


def test_batches_one_after_the_other_give_the_same_features(network: torch.nn.Module, crops: torch.Tensor) -> None:
    network.train()
    found = embed_batches(network, torch.split(crops, 4), CPU)
    parts = [next(found)]
    assert not network.training  # until the iterator ends
    parts += found
    assert [len(part) for part in parts] == [4, 4, 3] and network.training
    np.testing.assert_array_equal(np.concatenate(parts), embed_crops(network, crops, CPU, batch_size=4))
    network.eval()


def test_batches_are_taken_as_they_are_needed(network: torch.nn.Module, crops: torch.Tensor) -> None:
    taken = []

    def batches() -> Iterator[torch.Tensor]:
        for number in range(1000):
            taken.append(number)
            yield crops[:1]

    found = embed_batches(network, batches(), CPU)
    for _ in range(3):
        next(found)
    assert len(taken) == 4  # one is under way
    found.close()


def test_the_size_of_a_pass_is_what_is_used_where_none_is_given(network: torch.nn.Module, crops: torch.Tensor) -> None:
    assert default_batch_size(CPU) == 8 and default_batch_size(CPU, mirror=False) == 16
    np.testing.assert_array_equal(embed_crops(network, crops, CPU), embed_crops(network, crops, CPU, batch_size=8))


def test_bfloat16_is_near_and_differs(network: torch.nn.Module, crops: torch.Tensor) -> None:
    features = embed_crops(network, crops, CPU)
    half = embed_crops(network, crops, CPU, dtype="bfloat16")
    assert half.dtype == np.float32
    error = np.linalg.norm(half - features, axis=1) / np.linalg.norm(features, axis=1)
    assert error.min() > 1e-4 and error.max() < 0.01
    with pytest.raises(UsageError, match="use float32 or bfloat16"):
        embed_crops(network, crops, CPU, dtype="float16")  # type: ignore[arg-type]
