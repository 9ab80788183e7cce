"""The checks that `test_sharded_head.py` runs on several ranks: sharded heads against whole heads."""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sfplus.hypersphere import HEADS, CosFace, ShardedHead, class_energy

CLASSES, SIZE, SHARE = 11, 6, 4  # 11 classes make uneven shards; 4 samples a rank
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *(
        ("asoftmax", {"m": m, "gradient": gradient, "base": 1.0})
        for m in (1, 2, 3, 4)
        for gradient in ("exact", "caffe")
    ),
    ("lsoftmax", {"m": 3, "base": 1.0}),
    ("softmax", {}),
    ("normface", {"learnable": True, "scale": 8.0}),
    ("cosface", {"scale": 8.0}),
    ("arcface", {"scale": 8.0}),
    ("adaface", {"scale": 8.0}),
    *(("sphereface-r", {"version": version, "steps": (1, 3)}) for version in ("v0", "v1", "v2")),
    ("sphereface-r", {"normalisation": "soft", "gradient": "exact", "scale": 3.0}),
    *(
        ("sphereface2", {"margin": margin, "gradient": gradient})
        for margin in "CAM"
        for gradient in ("exact", "detached")
    ),
]

SAVED: tuple[str, dict[str, Any]] = ("sphereface-r", {"steps": (1, 3)})


def batches(world: int, steps: int = 5, classes: int = CLASSES) -> list[tuple[Tensor, Tensor]]:
    """Return global batches, which are equal in all processes."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(world * SHARE, SIZE, generator=generator, dtype=torch.float64),
            torch.randint(classes, (world * SHARE,), generator=generator),
        )
        for _ in range(steps)
    ]


def pair(name: str, options: dict[str, Any], classes: int = CLASSES, **keywords: Any) -> tuple[nn.Module, ShardedHead]:
    """Create a whole head and a sharded head with the same initial weights."""
    heads = []
    for build in (HEADS[name], partial(ShardedHead, HEADS[name], **keywords)):
        torch.manual_seed(3)
        heads.append(build(SIZE, classes, **options).double())
    return heads[0], heads[1]  # type: ignore[return-value]


def sgd(head: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)


def shard(head: ShardedHead, whole: Tensor) -> Tensor:
    return whole[head.first : head.last]


def part(rank: int) -> slice:
    return slice(rank * SHARE, (rank + 1) * SHARE)


def equals_whole_head(
    name: str,
    options: dict[str, Any],
    rank: int,
    world: int,
    energy: dict[str, Any] | None = None,
    classes: int = CLASSES,
    **keywords: Any,
) -> None:
    """Compare losses, gradients of features, five steps of SGD, counters and running means, and predictions."""
    whole, head = pair(name, options, classes, **keywords)
    whole_sgd, sharded_sgd = sgd(whole), sgd(head)
    for x, labels in batches(world, classes=classes):
        x, local = x.clone().requires_grad_(), x[part(rank)].clone().requires_grad_()
        expected, loss = whole.loss(x, labels), head.loss(local, labels[part(rank)])  # type: ignore[operator]
        if energy is not None:
            terms = class_energy(whole.weight, labels, **energy), head.class_energy(labels[part(rank)], **energy)
            torch.testing.assert_close(terms[1], terms[0], rtol=1e-12, atol=1e-14)
            expected, loss = expected + 0.5 * terms[0], loss + 0.5 * terms[1]
        whole_sgd.zero_grad(), sharded_sgd.zero_grad()
        expected.backward(), loss.backward()
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(local.grad, x.grad[part(rank)], rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(head.head.weight.grad[:-1], shard(head, whole.weight.grad), rtol=1e-10, atol=1e-13)
        whole_sgd.step(), sharded_sgd.step()
        torch.testing.assert_close(head.weight, shard(head, whole.weight), rtol=1e-9, atol=1e-12)
    assert not head.head.weight[-1].any()
    for key, value in whole.state_dict().items():
        if key != "weight":
            torch.testing.assert_close(head.head.state_dict()[key], value, rtol=1e-9, atol=1e-12)
    assert head.current_lambda == whole.current_lambda
    x = batches(world)[0][0]
    assert head.classify(x[part(rank)]).tolist() == whole.predict(x).argmax(1)[part(rank)].tolist()  # type: ignore[operator]


def equals_in_float32(rank: int, world: int) -> None:
    torch.manual_seed(3)
    whole = HEADS["asoftmax"](64, 1001)
    torch.manual_seed(3)
    head = ShardedHead(HEADS["asoftmax"], 64, 1001)
    torch.testing.assert_close(head.weight, shard(head, whole.weight), rtol=0, atol=0)
    whole_sgd, sharded_sgd = sgd(whole), sgd(head)
    for seed in range(5):
        x = torch.randn(world * 8, 64, generator=torch.Generator().manual_seed(seed))
        labels = torch.randint(1001, (world * 8,), generator=torch.Generator().manual_seed(seed))
        expected, loss = whole.loss(x, labels), head.loss(x[8 * rank :][:8], labels[8 * rank :][:8])
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
        whole_sgd.zero_grad(), sharded_sgd.zero_grad()
        expected.backward(), loss.backward()
        whole_sgd.step(), sharded_sgd.step()
    torch.testing.assert_close(head.weight, shard(head, whole.weight), rtol=1e-6, atol=1e-6)


class NetworkAndHead(nn.Module):
    """A network and its head in one module, where DDP ignores the tensors of the head."""

    def __init__(self, network: nn.Module, head: ShardedHead) -> None:
        super().__init__()
        self.network, self.head = network, head
        names = [f"head.{name}" for name in head.state_dict()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, names)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.head.loss(self.network(x), labels)


def network_in_ddp(rank: int, world: int, one_module: bool) -> None:
    """With `averaged`, five steps of a network in DDP and a sharded head equal those of a single process."""
    whole, head = pair("asoftmax", {"m": 2, "base": 1.0}, averaged=True)
    networks = []
    for _ in range(2):
        torch.manual_seed(5)
        networks.append(nn.Linear(SIZE, SIZE).double())
    alone, network = networks
    model = (
        DistributedDataParallel(NetworkAndHead(network, head))
        if one_module
        else NetworkAndHead(DistributedDataParallel(network), head)
    )
    whole_sgd, sharded_sgd = sgd(nn.ModuleList([alone, whole])), sgd(model)
    for x, labels in batches(world):
        whole_sgd.zero_grad(), sharded_sgd.zero_grad()
        whole.loss(alone(x), labels).backward()  # type: ignore[operator]
        model(x[part(rank)], labels[part(rank)]).backward()
        whole_sgd.step(), sharded_sgd.step()
    torch.testing.assert_close(network.weight, alone.weight, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(head.weight, shard(head, whole.weight), rtol=1e-9, atol=1e-12)


def softmax_of_sampled_classes(rank: int, world: int) -> None:
    """The loss of sampled training is that of a whole head with only the sampled classes."""
    classes = 40
    whole, head = pair("arcface", {"scale": 8.0}, classes, sample_rate=0.3, seed=7)
    same_seed, other_seed = (pair("arcface", {"scale": 8.0}, classes, sample_rate=0.3, seed=seed)[1] for seed in (7, 8))
    equal_losses = []
    for x, labels in batches(world, classes=classes):
        head.zero_grad()
        x, local = x.clone().requires_grad_(), x[part(rank)].clone().requires_grad_()
        loss = head.loss(local, labels[part(rank)])
        loss.backward()
        sampled = torch.zeros(classes, dtype=torch.bool)
        sampled[head.first : head.last] = head.head.weight.grad[:-1].any(1)
        expected_count = math.ceil(0.3 * (head.last - head.first))
        positives = len({label for label in labels.tolist() if head.first <= label < head.last})
        assert int(sampled.sum()) == max(expected_count, positives)
        dist.all_reduce(sampled)
        assert sampled[labels].all()
        smaller = HEADS["arcface"](SIZE, int(sampled.sum()), scale=8.0).double()  # type: ignore[call-arg]
        smaller.weight.data = whole.weight.data[sampled]
        expected = smaller.loss(x, sampled.cumsum(0)[labels] - 1)
        expected.backward()
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(local.grad, x.grad[part(rank)], rtol=1e-10, atol=1e-13)
        gradient = torch.zeros(classes, SIZE, dtype=torch.float64)
        gradient[sampled] = smaller.weight.grad
        torch.testing.assert_close(head.head.weight.grad[:-1], shard(head, gradient), rtol=1e-10, atol=1e-13)
        assert same_seed.loss(local, labels[part(rank)]) == loss
        equal_losses.append(other_seed.loss(local, labels[part(rank)]) == loss)
    assert not all(equal_losses)
    x, labels = batches(world, classes=classes)[0]
    loss = head.eval().loss(x[part(rank)], labels[part(rank)])
    torch.testing.assert_close(loss, whole.eval().loss(x, labels))  # type: ignore[operator]


def save_after_three_steps(rank: int, world: int, folder: str) -> None:
    """Train the first part of the run of `test_training_continues_with_another_number_of_ranks`."""
    _, head = pair(*SAVED)
    optimizer = sgd(head)
    for x, labels in batches(6, 3):
        share = len(x) // world
        optimizer.zero_grad()
        head.loss(x[rank * share :][:share], labels[rank * share :][:share]).backward()
        optimizer.step()
    state, momentum = head.full_state(), head.gather_rows(optimizer.state[head.head.weight]["momentum_buffer"])
    assert (state is None) == (momentum is None) == (rank > 0)
    if state is not None:
        torch.save([state, momentum], f"{folder}/whole.pt")


def loads_a_whole_head(rank: int, world: int) -> None:
    whole, head = pair("sphereface2", {})
    with torch.no_grad():
        for p in whole.parameters():
            p.normal_()
    head.load_full_state(whole.state_dict())
    x, labels = batches(world)[0]
    torch.testing.assert_close(head.loss(x[part(rank)], labels[part(rank)]), whole.loss(x, labels))  # type: ignore[operator]
    state = head.full_state()
    if state is not None:
        torch.testing.assert_close(state, dict(whole.state_dict()), rtol=0, atol=0)


def wrong_input(rank: int, world: int) -> None:
    """All ranks raise, although only the last one has the wrong input."""
    head, last = ShardedHead(CosFace, SIZE, CLASSES), rank == world - 1
    for labels in ([0] if last else [0, 1], [], [-1 if last else 0], [CLASSES if last else 0]):
        y = torch.tensor(labels, dtype=torch.int64)
        for call in (partial(head.loss, torch.randn(len(y), SIZE)), head.class_energy):
            with pytest.raises(ValueError, match=r"equally many samples|labels must be in \[0, 11\)"):
                call(y)


def equal_logits(rank: int, world: int) -> None:
    head = ShardedHead(CosFace, SIZE, CLASSES)
    head.load_rows(head.head.weight, torch.eye(SIZE)[:1].expand(CLASSES, -1))
    for sign in (1.0, -1.0):  # with -1 the spare row would have the largest logit
        assert head.classify(sign * torch.eye(SIZE)[:1]).tolist() == [0]


CHECKS: dict[str, Callable[[int, int], None]] = {
    **{
        "-".join([name, *map(str, options.values())]): partial(equals_whole_head, name, options)
        for name, options in OPTIONS
    },
    **{
        f"energy-{mode}-{power}": partial(equals_whole_head, "asoftmax", {}, energy={"mode": mode, "power": power})
        for mode in ("paper", "batch")
        for power in (0, 1, 2, 2.5)
    },
    "fewer-classes-than-ranks": partial(
        equals_whole_head, "sphereface2", {}, energy={"mode": "paper"}, classes=2, sample_rate=0.5
    ),
    "network-in-ddp": partial(network_in_ddp, one_module=False),
    "network-and-head-in-ddp": partial(network_in_ddp, one_module=True),
    "one-class": partial(equals_whole_head, "cosface", {}, classes=1),
    "all-drawn": partial(equals_whole_head, "asoftmax", {"base": 1.0}, energy={"mode": "paper"}, sample_rate=0.999),
    "all-drawn-caffe": partial(equals_whole_head, "asoftmax", {"gradient": "caffe"}, sample_rate=0.999),
    "all-drawn-normface": partial(equals_whole_head, "normface", {"learnable": True}, sample_rate=0.999),
    **{
        f.__name__: f
        for f in (
            equals_in_float32,
            softmax_of_sampled_classes,
            loads_a_whole_head,
            wrong_input,
            equal_logits,
        )
    },
}


def work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world, timeout=timedelta(seconds=20)
    )
    errors: dict[str, str] = {}
    for name, check in CHECKS.items():
        try:
            check(rank, world)
        except BaseException:  # exceptions of pytest are not an Exception
            errors[name] = traceback.format_exc()
    save_after_three_steps(rank, world, folder)
    Path(folder, f"{rank}.json").write_text(json.dumps(errors))
    dist.destroy_process_group()


def start(_: int, world: int, folder: str) -> None:
    """Fork the ranks from this process, which has imported torch for all of them."""
    mp.start_processes(work, (world, folder), nprocs=world, start_method="fork")
