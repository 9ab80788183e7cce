from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sfplus.hypersphere import HypersphericalEnergy, RandomProjection, class_energy


class Loss(nn.Module):
    """A network with its energy terms in one forward pass, as for DistributedDataParallel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 12))
        self.energy = HypersphericalEnergy(self.network, half_space=True, projection=RandomProjection)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        entropy = nn.functional.cross_entropy(self.network(x), labels)
        return entropy + self.energy() + class_energy(self.network[2].weight, labels)


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 64, generator=generator), torch.randint(12, (8,), generator=generator)


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    loss = Loss()
    model, (x, labels) = DistributedDataParallel(loss), _batch()
    for _ in range(2):
        loss.energy.step(0.1)
        model.zero_grad()
        model(x[4 * rank : 4 * rank + 4], labels[4 * rank : 4 * rank + 4]).backward()
    torch.save([p.grad for p in loss.network.parameters()], f"{folder}/{rank}.pt")
    dist.destroy_process_group()
    time.sleep(0.2)  # a thread of gloo that releases a tensor while Python ends would abort the process


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_a_single_process(tmp_path: Path) -> None:
    mp.spawn(_rank, (str(tmp_path),), nprocs=2)
    loss = Loss()
    for _ in range(2):
        loss.energy.step(0.1)
        loss.zero_grad()
        loss(*_batch()).backward()
    expected = [p.grad for p in loss.network.parameters()]
    for rank in (0, 1):
        torch.testing.assert_close(
            torch.load(tmp_path / f"{rank}.pt", weights_only=True), expected, rtol=1e-5, atol=1e-7
        )
