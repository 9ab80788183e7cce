"""Gradients that processes exchange during backward: their mean, accumulation, shards, overflow, and resuming."""

from __future__ import annotations

import atexit
import contextlib
import copy
import os
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tiny import SETTINGS, is_equal, run, write_crops
from torch import Tensor, distributed, nn
from torch.amp.grad_scaler import GradScaler

from sfplus.datasets.crops import CropDataset
from sfplus.device import Device, choose_device
from sfplus.image_tasks.datasets import SmallImages
from sfplus.image_tasks.gan import Discriminator, Generator
from sfplus.image_tasks.generation import GanTask
from sfplus.recipes.settings.generate import GenerateSettings
from sfplus.recipes.settings.train import TrainSettings
from sfplus.training import distributed as training
from sfplus.training.distributed import ProcessGroup, has_unused_parameters
from sfplus.training.engine import train

ROOT = Path(__file__).resolve().parents[2]


class Branches(nn.Module):
    """A layer that is used, one that is not, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.used, self.spare, self.frozen = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x) + self.frozen(x)


def expected_gradient(network: Branches, inputs: Tensor) -> Tensor:
    reference = copy.deepcopy(network)
    reference(inputs).square().sum().backward()
    assert reference.used.weight.grad is not None
    return reference.used.weight.grad


def check_means(processes: ProcessGroup) -> None:
    """The mean over the processes, in one pass and in two; nothing for parameters without gradient."""
    inputs = [torch.full((2, 3), float(rank + 1)) for rank in range(processes.count)]
    for unused in (True, False):
        network = Branches()
        if not unused:
            del network.spare
        names = list(network.state_dict())
        mean = torch.stack([expected_gradient(network, x) for x in inputs]).mean(0)
        model = processes.prepare(network, unused=unused)
        assert all(parameter.grad is None for parameter in network.parameters())
        with processes.no_exchange(model):
            model(inputs[processes.rank]).square().sum().backward()
        own = expected_gradient(network, inputs[processes.rank])
        torch.testing.assert_close(network.used.weight.grad, own)
        model(inputs[processes.rank]).square().sum().backward()
        torch.testing.assert_close(network.used.weight.grad, 2 * mean)
        assert network.frozen.weight.grad is None and (not unused or network.spare.weight.grad is None)
        assert list(network.state_dict()) == names


def check_local(processes: ProcessGroup) -> None:
    """The gradient of a shard stays as it is; shards may differ in shape."""
    network = Branches()
    network.spare = nn.Linear(3, 2 + processes.rank)
    model = processes.prepare(network, local=["spare.weight", "spare.bias"])
    rank = float(processes.rank + 1)
    (model(torch.ones(2, 3)).sum() * rank + network.spare.weight.sum() * rank).backward()
    assert network.spare.weight.grad is not None and bool((network.spare.weight.grad == rank).all())
    mean = 2 * sum(range(1, processes.count + 1)) / processes.count
    torch.testing.assert_close(network.used.weight.grad, torch.full((2, 3), mean))


def check_collectives(processes: ProcessGroup) -> None:
    """All kinds of tensors become those of the first process; gathering keeps the order and the shape."""
    own = processes.rank + 1
    tensors = [
        torch.full((2, 3, 4, 4), float(own)).to(memory_format=torch.channels_last), torch.tensor(own), torch.empty(0),
        torch.full((5,), float(own), dtype=torch.float64), torch.tensor([own == 1, own != 1]),
        torch.full((3, 2), own).T,
    ]  # fmt: skip
    processes.broadcast(tensors)
    assert bool((tensors[0] == 1).all()) and int(tensors[1]) == 1 and bool((tensors[3] == 1).all())
    assert tensors[4].tolist() == [True, False] and bool((tensors[5] == 1).all())
    gathered = processes.gather(torch.full((2, 3), own).T)
    assert gathered.tolist() == [[rank + 1] * 2 for rank in range(processes.count) for _ in range(3)]


def check_overflow(processes: ProcessGroup) -> None:
    """A gradient that overflows in one process makes all of them skip the step and halve the scale."""
    Device.scaler = lambda self, precision="auto": GradScaler("cpu")  # type: ignore[assignment, method-assign]
    scaler = processes.scaler("fp16")
    assert scaler is not None
    shard = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([shard], lr=1.0)
    scaler.scale(shard.sum()).backward()  # type: ignore[no-untyped-call]
    if processes.rank == processes.count - 1:
        assert shard.grad is not None
        shard.grad[0] = torch.inf
    scale = scaler.get_scale()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert bool((shard == 1).all()) and scaler.get_scale() == scale / 2


class SameNoise(GanTask):
    """The task with noise that does not depend on the number of processes."""

    calls = 0

    def _generate(self, count: int, generator: nn.Module) -> Tensor:
        self.calls += 1
        total = count * self.processes.count
        noise = torch.randn(total, self.generator.noise_size, generator=torch.Generator().manual_seed(self.calls))
        images: Tensor = generator(noise[self.processes.share(total)].double())
        return images


def train_gan(folder: Path, processes: ProcessGroup) -> dict[str, Tensor]:
    """Train in float64 without batch normalisation, which is over the share of each process on a CPU."""
    pixels = torch.randint(0, 256, (20, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = SmallImages(pixels, torch.arange(20) % 2, ("a", "b"))
    options = {"max_iter": 3, "batch_size": 6, "width": 0.125, "n_dis": 2, "log_every": 1, "energy": {"weight": 0.1}}
    settings = GenerateSettings.model_validate(options)
    torch.manual_seed(0)
    generator = Generator(0.125, settings.noise_size)
    for stage in range(4):
        setattr(generator, f"bn{stage}", nn.Identity())
    task = SameNoise(generator.double(), Discriminator(0.125, True).double(), images, settings, processes, "")
    train(task, settings, folder, processes)
    return {name: tensor.contiguous() for name, tensor in task.modules.state_dict().items()}


def train_and_continue(source: Path, folder: Path, processes: ProcessGroup) -> None:
    """A run that is continued at its third step ends with the bits of the whole one."""
    paths = sorted(source.glob("*/*.png"))
    crops = CropDataset(paths, [int(path.parent.name[-1]) for path in paths], 112, 96)
    changes = {"max_iter": 7, "checkpoint_every": 3, "keep": 9, "batch_size": 12, "energy": None}
    settings = TrainSettings.model_validate({**SETTINGS.model_dump(), **changes})
    whole, _ = run(crops, folder / "whole", settings)
    if processes.is_first:
        shutil.copytree(folder / "whole", folder / "parts")
        for step in (6, 7):
            shutil.rmtree(folder / "parts" / f"checkpoint-{step:06d}")
    processes.wait()
    parts, _ = run(crops, folder / "parts", settings)
    assert is_equal(whole, parts)


def worker(source: Path, folder: Path) -> None:
    processes = ProcessGroup(choose_device("cpu"))
    for check in (check_means, check_local, check_collectives, check_overflow):
        check(processes)
    state = train_gan(folder / "gan", processes)
    safetensors.torch.save_file(state, folder / f"gan{processes.rank}.safetensors")
    train_and_continue(source, folder, processes)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_processes_exchange_gradients(count: int, tmp_path: Path) -> None:
    """With three processes the sums depend on the division of the gradients into buckets."""
    write_crops(tmp_path / "crops")
    script = "import sys; from pathlib import Path; from test_gradient_exchange import worker; "
    script += "worker(*map(Path, sys.argv[1:]))"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    folders = [ROOT, Path(__file__).parent, Path(__file__).parents[1]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"OMP_NUM_THREADS": "1"}
    command = [*launcher, "--no-python", sys.executable, "-c", script, str(tmp_path / "crops"), str(tmp_path)]
    answer = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=600)
    assert answer.returncode == 0, answer.stderr.decode()
    assert b"Warning" not in answer.stderr, answer.stderr.decode()
    one = train_gan(tmp_path / "one", ProcessGroup(choose_device("cpu")))
    for rank in range(count):
        state = safetensors.torch.load_file(tmp_path / f"gan{rank}.safetensors")
        for name, tensor in one.items():
            torch.testing.assert_close(state[name], tensor, rtol=0, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


class SlowToEnd:
    """An object that holds up the end of Python, after which no thread can run it."""

    def __del__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        sleep(1)


def end_while_a_thread_holds_a_tensor() -> None:
    """End while a thread of gloo, which gets little time, has still to release the tensor of the last exchange."""
    global kept
    tasks = Path("/proc/self/task")
    before = set(tasks.iterdir())
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    training._RELEASE_SECONDS = 3  # the thread gets a hundredth of the usual time or less
    atexit.register(training._leave)
    kept = distributed.group.WORLD, SlowToEnd()  # DDP keeps the group in the same way
    distributed.all_reduce(torch.ones(5))
    for task in set(tasks.iterdir()) - before:
        os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))
    for _ in range(20_000):
        tensor = torch.ones(5)
        reference = weakref.ref(tensor)
        distributed.all_reduce(tensor)
        del tensor
        if reference() is not None:
            print("held")
            return


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="threads are slowed down by the scheduler of Linux")
def test_python_does_not_end_while_a_thread_holds_a_tensor() -> None:
    """The process would be aborted in most runs."""
    script = "from test_gradient_exchange import end_while_a_thread_holds_a_tensor; end_while_a_thread_holds_a_tensor()"
    folders = [ROOT, Path(__file__).parent, Path(__file__).parents[1]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script]
    answer = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=100)
    assert answer.returncode == 0, answer.stderr.decode()
    if b"held" not in answer.stdout:
        pytest.skip("no thread was slow enough")


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("not this size")


def test_frozen_layers_stay_frozen_when_unused_parameters_are_sought() -> None:
    """Also if the network does not accept the image."""
    for last in (nn.Linear(12, 2), Failing()):
        network = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Flatten(), last).train()
        network[1].eval()
        with pytest.raises(ValueError, match="size") if isinstance(last, Failing) else contextlib.nullcontext():
            has_unused_parameters(network, (3, 2, 2))
        assert [module.training for module in network] == [True, False, True, True] and network.training


@pytest.mark.parametrize(
    ("make", "unused"),
    [(lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), False), (lambda: Unused(), True)],
    ids=["all used", "a spare layer"],
)
def test_unused_parameters_are_found(make: Callable[[], nn.Module], unused: bool) -> None:
    network = make().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert has_unused_parameters(network, (3, 2, 2)) == unused and network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


class Unused(nn.Module):
    """A network with batch normalisation, a frozen layer and a layer that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.spare, self.frozen = nn.BatchNorm2d(3), nn.Linear(3, 2), nn.Linear(3, 2)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Any:
        return self.norm(x).flatten(1)


def test_a_module_without_trained_parameters_is_not_wrapped() -> None:
    processes = ProcessGroup(choose_device("cpu"))
    processes.count = 2
    frozen = nn.Linear(2, 2).requires_grad_(False)
    assert processes.prepare(frozen) is frozen
    assert processes.prepare(module := nn.Linear(2, 2), local=["weight", "bias"]) is module
