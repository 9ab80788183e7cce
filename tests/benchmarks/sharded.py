"""Time and memory per rank of a step of the classifier, replicated in DDP or class-parallel, by number of classes.

A-Softmax, m = 4, feature size 512, 128 samples in the global batch, one thread per rank, gloo; forward, loss, backward
and SGD with momentum. Each line is a run in new processes, with the runs alternating; memory is the increase of the
peak of a rank. The second table extrapolates by the formula with which the first table compares.
Run it on an idle machine: make bench. With a million classes (24 GB): sharded.py 1000000
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from racing import peak_memory
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sfplus.hypersphere import ASoftmax, Head, ShardedHead, class_energy

FEATURES, BATCH, ROUNDS = 512, 128, 3
RUNS: dict[str, dict[str, float]] = {
    "replicated": {},
    "sharded": {},
    "sharded, 10 % of the classes": {"sample_rate": 0.1},
    "replicated, with class energy": {},
    "sharded, with class energy": {},
}


class Replicated(nn.Module):
    """The head and its loss as one module for DDP."""

    def __init__(self, head: Head, energy: bool) -> None:
        super().__init__()
        self.head, self.energy = head, energy

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        loss = self.head.loss(features, labels)
        return loss + class_energy(self.head.weight, labels) if self.energy else loss


def step(name: str, classes: int, features: Tensor, labels: Tensor) -> Callable[[], None]:
    energy = "energy" in name
    if "replicated" in name:
        head: nn.Module = Replicated(ASoftmax(FEATURES, classes), energy)
        loss = DistributedDataParallel(head) if dist.get_world_size() > 1 else head
    else:
        head = sharded = ShardedHead(ASoftmax, FEATURES, classes, **RUNS[name])  # type: ignore[arg-type]

        def loss(x: Tensor, y: Tensor) -> Tensor:  # type: ignore[misc]
            return sharded.loss(x, y) + sharded.class_energy(y) if energy else sharded.loss(x, y)

    optimizer = torch.optim.SGD(head.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def run_step() -> None:
        optimizer.zero_grad()
        loss(features, labels).backward()
        optimizer.step()

    return run_step


def run(rank: int, world: int, name: str, classes: int, steps: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    features = torch.randn(BATCH // world, FEATURES, requires_grad=True)
    labels = torch.randint(classes, (BATCH // world,), generator=torch.Generator().manual_seed(rank))
    step(name, 64, features, labels % 64)()  # excludes what the first step loads
    initial_peak, seconds = peak_memory(), []
    run_step = step(name, classes, features, labels)
    for _ in range(steps + 1):
        dist.barrier()
        clock = time.perf_counter()
        run_step()
        seconds.append(time.perf_counter() - clock)
    Path(folder, f"{rank}.json").write_text(
        json.dumps([median(seconds[1:]), (peak_memory() - initial_peak) * 2**20 / 1e6])
    )
    dist.destroy_process_group()


def measure(world: int, name: str, classes: int) -> tuple[float, float]:
    """Return seconds per step of the slowest rank and MB of the largest."""
    steps = 10 if classes <= 10_000 else 3
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run, (world, name, classes, steps, folder), nprocs=world)
        results = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(world)]
    return max(seconds for seconds, _ in results), max(memory for _, memory in results)


def formula(classes: float, batch: int, rate: float = 1.0, energy: bool = False) -> dict[str, float]:
    """Return the bytes of a rank by number of its classes: float32, SGD with momentum and weight decay.

    The peak is the permanent part plus the largest of: logits and softmax with the unit classifiers; the gradient of
    the logits with the unit classifiers and their gradient; the three tensors from there to the gradient of the
    weight; that gradient and its sampled part; that gradient with and without decay. The gradient of the energy is in
    memory throughout, twice.
    """
    rows, logits, features = classes * FEATURES * 4, rate * batch * classes * 4, 2 * batch * FEATURES * 4
    sampled = rate * rows
    moments = (2 * logits + sampled, logits + 2 * sampled, 3 * sampled, sampled + rows, 2 * rows)
    return {
        "weights": rows,
        "gradient": rows,
        "momentum": rows,
        "logits": logits,
        "features": features,
        "peak": 2 * rows + features + max(moments) + 2 * rows * energy,
    }


def main() -> None:
    print("| classes | ranks | | s | MB per rank | formula | time | memory |")
    print("| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for classes in map(int, sys.argv[1:] or (10_000, 100_000)):
        entrants = [(world, name) for world in (1, 2) for name in RUNS]
        if classes > 300_000:  # two copies with DDP's buckets do not fit in 24 GB
            entrants = [(world, name) for world, name in entrants if world == 1 or "replicated" not in name]
        results: dict[tuple[int, str], list[tuple[float, float]]] = {entrant: [] for entrant in entrants}
        for _ in range(ROUNDS if classes <= 300_000 else 1):
            for entrant in entrants:
                results[entrant].append(measure(*entrant, classes))
        medians = {entrant: tuple(map(median, zip(*values, strict=True))) for entrant, values in results.items()}
        for (world, name), (seconds, memory) in medians.items():
            base = medians.get((world, "replicated"), medians[1, "replicated"])
            shards, rate = (1 if "replicated" in name else world), RUNS[name].get("sample_rate", 1.0)
            expected = formula(classes / shards, BATCH * shards // world, rate, "energy" in name)["peak"] / 1e6
            print(
                f"| {classes:,} | {world} | {name} | {seconds:.3f} | {memory:,.0f} | {expected:,.0f} |"
                f" {seconds / base[0]:.2f} | {memory / base[1]:.2f} |"
            )
    print("\n10,000,000 classes by the formula, 64 samples per rank; GB per rank\n")
    print("| ranks | " + " | ".join(formula(1, 1)) + " | peak, 10 % of the classes | peak, with class energy |")
    print("| " + "---: | " * 9)
    for world in (1, 2, 4, 8, 16, 32, 64):
        share, batch = 10_000_000 / world, 64 * world
        variants = formula(share, batch, 0.1)["peak"], formula(share, batch, energy=True)["peak"]
        numbers = [*formula(share, batch).values(), *variants]
        print(f"| {world} | " + " | ".join(f"{value / 1e9:,.2f}" for value in numbers) + " |")


if __name__ == "__main__":
    main()
