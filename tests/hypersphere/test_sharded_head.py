"""Sharded heads on 2 and 3 processes: all checks of `sharded_checks.py` run in the same processes."""

from __future__ import annotations

import json
import math
import os
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sharded_checks import CHECKS, CLASSES, SAVED, SIZE, batches, pair, sgd, start

from sfplus.hypersphere import HEADS, CosFace, ShardedHead

World = tuple[Path, list[dict[str, str]]]


@pytest.fixture(scope="module", params=[pytest.param(ranks, marks=pytest.mark.slow) for ranks in (2, 3)])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Run all checks, and return the folder and the failed checks of each rank."""
    folder = tmp_path_factory.mktemp("world")
    mp.spawn(start, (request.param, str(folder)))
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(request.param)]


@pytest.mark.parametrize("check", CHECKS)
def test_equals_a_whole_head_across_ranks(world: World, check: str) -> None:
    for rank, errors in enumerate(world[1]):
        assert check not in errors, f"rank {rank}: {errors[check]}"


def test_training_continues_with_another_number_of_ranks(world: World) -> None:
    state, momentum = torch.load(world[0] / "whole.pt", weights_only=True)
    whole, head = pair(*SAVED)
    HEADS[SAVED[0]](SIZE, CLASSES).load_state_dict(state)
    optimizer_of_whole, optimizer_of_head = sgd(whole), sgd(head)
    for step, (x, labels) in enumerate(batches(6)):
        if step == 3:
            head.load_full_state(state)
            velocity = torch.empty_like(head.head.weight, requires_grad=False)
            optimizer_of_head.state[head.head.weight]["momentum_buffer"] = velocity
            head.load_rows(velocity, momentum)
        for module, optimizer in ((whole, optimizer_of_whole), (head, optimizer_of_head))[: 1 + (step >= 3)]:
            optimizer.zero_grad()
            module.loss(x, labels).backward()  # type: ignore[operator]
            optimizer.step()
    torch.testing.assert_close(head.weight, whole.weight, rtol=1e-9, atol=1e-12)
    assert head.head.iteration == whole.iteration == 5


def test_sampled_classes_are_uniform_resumable_and_differ_between_steps() -> None:
    head = ShardedHead(CosFace, 2, 50, sample_rate=0.3)
    x, labels, steps = torch.randn(3, 2), torch.tensor([7, 7, 30]), 400
    counts, samples = torch.zeros(50), set()
    for _ in range(steps):
        head.zero_grad()
        head.loss(x, labels).backward()
        sampled = head.head.weight.grad[:-1].any(1)
        assert int(sampled.sum()) == 15 and sampled[[7, 30]].all()
        counts += sampled
        samples.add(tuple(sampled.tolist()))
    negatives = counts[torch.arange(50)[:, None].ne(torch.tensor([7, 30])).all(1)]
    share, tolerance = 13 / 48, 5 * math.sqrt(13 / 48 * 35 / 48 / steps)
    assert ((negatives / steps - share).abs() < tolerance).all()
    assert len(samples) == steps
    state = head.full_state()
    assert state is not None
    resumed = ShardedHead(CosFace, 2, 50, sample_rate=0.3)
    resumed.load_full_state(state)
    assert resumed.loss(x, labels) == head.loss(x, labels)


def test_asoftmax_normalises_only_the_sampled_classes() -> None:
    head = ShardedHead(HEADS["asoftmax"], 4, 50, sample_rate=0.2)
    head.loss(torch.randn(3, 4), torch.tensor([0, 1, 2])).backward()
    sampled = head.head.weight.grad[:-1].any(1)
    unit = (head.weight.norm(dim=1) - 1).abs() < 1e-6
    assert int(sampled.sum()) == 10
    assert torch.equal(unit, sampled)


def test_stays_in_float32_under_autocast() -> None:
    head = ShardedHead(CosFace, 4, 10)
    x, labels = torch.randn(3, 4).bfloat16(), torch.tensor([0, 1, 2])
    expected = head.loss(x.float(), labels), head.class_energy(labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert (head.loss(x, labels), head.class_energy(labels)) == expected


def test_random_state_advances_as_with_a_whole_head() -> None:
    states = []
    for build in (CosFace, partial(ShardedHead, CosFace)):
        torch.manual_seed(0)
        build(512, 70_000)  # drawn in pieces
        states.append(torch.rand(3))
    assert torch.equal(*states)


def test_wrong_arguments_are_refused() -> None:
    for rate in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="share of classes"):
            ShardedHead(CosFace, 4, 10, sample_rate=rate)
    head = ShardedHead(CosFace, 4, 10)
    with pytest.raises(ValueError, match="paper or batch"):
        head.class_energy(torch.tensor([0]), mode="caffe")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="power"):
        head.class_energy(torch.tensor([0]), power=-1)
    with pytest.raises(ValueError, match=r"the shape \(10, 4\), not \(9, 4\)"):
        head.load_full_state({"weight": torch.zeros(9, 4)})
    with pytest.raises(RuntimeError, match="nothing"):
        head.load_full_state({"weight": torch.zeros(10, 4), "nothing": torch.zeros(1)})


def _lose_a_rank(rank: int, folder: str, dies: bool) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=2)
    )
    head = ShardedHead(CosFace, 4, 10)
    head.loss(torch.randn(2, 4), torch.tensor([0, 9]))
    if rank == 1:
        os._exit(0) if dies else time.sleep(5)
        return
    clock = time.monotonic()
    with pytest.raises(RuntimeError):
        head.loss(torch.randn(2, 4), torch.tensor([0, 9]))
    assert time.monotonic() - clock < 4
    Path(folder, "error").touch()
    os._exit(0)  # the group cannot be destroyed in the usual way


@pytest.mark.slow
@pytest.mark.parametrize("dies", [True, False], ids=["dies", "hangs"])
def test_loss_of_a_rank_stops_the_other_ranks(dies: bool, tmp_path: Path) -> None:
    mp.spawn(_lose_a_rank, (str(tmp_path), dies), nprocs=2)
    assert (tmp_path / "error").exists()
