"""The checks that `test_data_parallel.py` runs on two ranks: heads and energies against a process with all samples."""

from __future__ import annotations

import copy
import json
import os
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from sfplus.hypersphere import HEADS, AdaFace, Head, HypersphericalEnergy, class_energy, hyperspherical_energy

SHARE, SIZE, CLASSES = 4, 6, 5
OPTIONS: dict[str, dict[str, Any]] = {
    "asoftmax": {"base": 1.0},
    "lsoftmax": {"base": 1.0},
    "normface": {"learnable": True},
    "sphereface-r": {"steps": (1, 2), "normalisation": "soft"},
}
Check = Callable[[int], None]


def batches(steps: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    shape = (2 * SHARE, SIZE)
    return [
        (
            torch.randn(shape, generator=generator, dtype=torch.float64),
            torch.randint(CLASSES, (8,), generator=generator),
        )
        for _ in range(steps)
    ]


def part(rank: int) -> slice:
    return slice(rank * SHARE, (rank + 1) * SHARE)


class NetworkAndHead(nn.Module):
    def __init__(self, network: nn.Module, head: Head) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.head(self.network(x), labels)
        return loss


def models(name: str) -> tuple[NetworkAndHead, NetworkAndHead]:
    torch.manual_seed(3)
    model = NetworkAndHead(nn.Linear(SIZE, SIZE), HEADS[name](SIZE, CLASSES, **OPTIONS.get(name, {}))).double()
    whole = copy.deepcopy(model)
    if isinstance(model.head, AdaFace):
        model.head.synchronised = True
    return whole, model


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def compare(rank: int, whole: NetworkAndHead, model: NetworkAndHead, step: Callable[[Tensor, Tensor], None]) -> None:
    """Compare parameters and buffers after three steps, with one process and between the ranks."""
    optimizer = sgd(whole)
    for x, labels in batches():
        optimizer.zero_grad()
        whole(x, labels).backward()
        optimizer.step()
        step(x[part(rank)], labels[part(rank)])
    actual, expected = dict(model.state_dict()), dict(whole.state_dict())
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)
    for value in actual.values():
        first = value.clone()
        dist.broadcast(first, 0)
        assert torch.equal(first, value), "the ranks agree"


def in_ddp(rank: int, name: str, one_module: bool) -> None:
    whole, model = models(name)
    wrapped: nn.Module = (
        DistributedDataParallel(model)
        if one_module
        else NetworkAndHead(DistributedDataParallel(model.network), DistributedDataParallel(model.head))  # type: ignore[arg-type]
    )
    optimizer = sgd(model)

    def step(x: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        wrapped(x, labels).backward()
        optimizer.step()

    compare(rank, whole, model, step)


def with_accelerate(rank: int, name: str) -> None:
    whole, model = models(name)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    network, head, optimizer = accelerator.prepare(model.network, model.head, sgd(model))
    assert isinstance(head, DistributedDataParallel)

    def step(x: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        accelerator.backward(head(network(x), labels))
        optimizer.step()

    compare(rank, whole, model, step)


def layers() -> nn.Sequential:
    torch.manual_seed(3)
    attention = nn.MultiheadAttention(SIZE, 2)
    return nn.Sequential(nn.Linear(SIZE, 7), nn.Linear(7, SIZE), attention, nn.Linear(SIZE, CLASSES)).double()


def energy_of_fully_sharded(rank: int) -> None:
    """The gradient of entropy, energy of the network and class energy of this rank's labels is that of one process."""
    x, labels = batches(1)[0]
    whole, model = layers(), layers()
    mesh = init_device_mesh("cpu", (2,))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    results = []
    for network, rows in ((whole, slice(None)), (model, part(rank))):
        energy = HypersphericalEnergy(network, half_space=True)
        assert [layer.shape for layer in energy.layers][:2] == [(1, 7, SIZE), (1, SIZE, 7)] and not energy.left_out
        loss = network[1](network[0](x[rows])).square().mean()
        values = [energy(), hyperspherical_energy(network[0].weight, 1)]
        (loss + sum(values) + class_energy(network[3].weight, labels[rows])).backward()
        gradients = [_full(p.grad) for p in network.parameters()]
        results.append([*(value.detach() for value in values), *gradients])
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-12)


def _full(gradient: Tensor | None) -> Tensor | None:
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient  # type: ignore[union-attr]


class WithEnergy(nn.Module):
    """Network and energy in one forward, which FullyShardedDataParallel wraps in one piece."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.network = nn.Sequential(nn.Linear(SIZE, 7), nn.Linear(7, CLASSES)).double()
        self.energy = HypersphericalEnergy(self.network)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.network(x), labels) + self.energy()


def energy_of_fsdp1(rank: int, use_orig_params: bool) -> None:
    """Outside of forward the weights are in pieces, which is refused; inside they are not."""
    whole, model = WithEnergy(), WithEnergy()
    cpu = torch.device("cpu")
    wrapped = FullyShardedDataParallel(model, use_orig_params=use_orig_params, device_id=cpu)
    for refused in (model.energy, lambda: HypersphericalEnergy(model.network)()):
        with pytest.raises(ValueError, match="held in pieces by FullyShardedDataParallel"):
            refused()
    x, labels = batches(1)[0]
    whole(x, labels).backward()
    wrapped(x[part(rank)], labels[part(rank)]).backward()
    if use_orig_params:
        with FullyShardedDataParallel.summon_full_params(wrapped, with_grads=True):
            for actual, expected in zip(model.network.parameters(), whole.network.parameters(), strict=True):
                torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(model.energy.values, whole.energy.values)


CHECKS: dict[str, Check] = {
    **{f"ddp {name}": partial(in_ddp, name=name, one_module=True) for name in HEADS},
    **{f"head in ddp {name}": partial(in_ddp, name=name, one_module=False) for name in HEADS},
    **{f"accelerate {name}": partial(with_accelerate, name=name) for name in HEADS},
    "fully_shard": energy_of_fully_sharded,
    "fsdp1 with original parameters": partial(energy_of_fsdp1, use_orig_params=True),
    "fsdp1": partial(energy_of_fsdp1, use_orig_params=False),
}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # FSDP warns of CPUs
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    errors: dict[str, str] = {}
    for name, check in CHECKS.items():
        try:
            check(rank)
        except BaseException:  # exceptions of pytest are not an Exception
            errors[name] = traceback.format_exc()
    Path(folder, f"{rank}.json").write_text(json.dumps(errors))
    dist.destroy_process_group()
    time.sleep(0.2)  # a thread of gloo that releases a tensor while Python ends would abort the process
