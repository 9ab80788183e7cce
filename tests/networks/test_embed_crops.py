from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfplus.datasets.crops import CropDataset
from sfplus.device import choose_device
from sfplus.networks import create, to_input
from sfplus.networks.embed import embed, embed_crops

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
            expected = network(to_input(torch.from_numpy(pair))).numpy().ravel()
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


def test_sets_of_files_give_the_same_features(network: torch.nn.Module, crops: torch.Tensor, tmp_path: Path) -> None:
    paths = [tmp_path / f"{index} é.png" for index in range(len(crops))]
    for path, crop in zip(paths, crops, strict=True):
        Image.fromarray(crop.numpy()).save(path)
    seen: list[int] = []
    network.train()
    features = embed(network, CropDataset(paths, [0] * 11, 112, 96), CPU, batch_size=4, on_batch=seen.append)
    assert seen == [4, 4, 3] and network.training
    np.testing.assert_array_equal(features, embed_crops(network, crops, CPU, batch_size=4))
