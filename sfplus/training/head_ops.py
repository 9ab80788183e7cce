"""What training asks of a classifier, whether each process has all of it or its share of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sfplus.hypersphere import HEADS, Head, ShardedHead, class_energy
from sfplus.recipes.settings.train import EnergySettings, SolverSettings
from sfplus.training.distributed import Processes
from sfplus.weights.model_folder import copy_by_name


def create_head(settings: SolverSettings, features: int, people: int) -> Head | ShardedHead:
    """The classifier that settings describe, after `Processes` where it is sharded."""
    kind, options = HEADS[settings.head.name], settings.head.model_dump(exclude={"name"})
    if settings.classes == "replicated":
        return kind(features, people, **options)
    rate, seed = settings.sample_rate, settings.seed
    return ShardedHead(kind, features, people, averaged=True, sample_rate=rate, seed=seed, **options)


@torch.no_grad()
def copy_classes(tensors: Mapping[str, Tensor], head: Head | ShardedHead) -> bool:
    """Start a classifier from the tensors of a whole one for as many people; whether it is that."""
    if isinstance(head, Head):
        fits = "weight" in tensors and tensors["weight"].shape == head.weight.shape
        return fits and "weight" in copy_by_name(tensors, head).loaded
    try:
        head.load_rows(head.head.weight, tensors["weight"])
    except (KeyError, ValueError):
        return False
    copy_by_name({name: tensor for name, tensor in tensors.items() if name != "weight"}, head.head)
    return True


def whole_head(head: Head | ShardedHead, settings: SolverSettings) -> Head | None:
    """The same with all classes, on the first process; None on others that have shards. All call this together."""
    if isinstance(head, Head):
        return head
    state = head.full_state()
    if state is None:
        return None
    whole = HEADS[settings.head.name](
        state["weight"].shape[1], head.classes, **settings.head.model_dump(exclude={"name"})
    )
    whole.load_state_dict({name: value for name, value in state.items() if name != "draws"})
    return whole


def count_classes(head: Head | ShardedHead) -> int:
    """How many people a classifier tells apart."""
    return head.classes if isinstance(head, ShardedHead) else len(head.weight)


def energy_of(head: Head | ShardedHead, labels: Tensor, settings: EnergySettings, processes: Processes) -> Tensor:
    """The class energy of the global batch, or what has it as its mean over the processes."""
    if isinstance(head, ShardedHead):
        return head.class_energy(labels, settings.power, settings.mode)  # type: ignore[arg-type]
    if settings.mode != "paper":  # which is linear in the samples
        labels = processes.gather(labels)
    return class_energy(head.weight, labels, settings.power, settings.mode)


@torch.no_grad()
def accuracy_of(head: Head | ShardedHead, features: Tensor, labels: Tensor) -> Tensor:
    """The share of features (M, d) that are told right, without margin."""
    predicted = head.classify(features) if isinstance(head, ShardedHead) else head.predict(features).argmax(1)
    return (predicted == labels).float().mean()


def average_gradients(network: nn.Module, head: Head | ShardedHead, processes: Processes) -> None:
    """The gradients of the global batch; those of shards are that already."""
    parted = isinstance(head, ShardedHead)
    processes.average_gradients([*network.parameters(), *(() if parted else head.parameters())])


def clip_gradients(network: nn.Module, head: Head | ShardedHead, longest: float, processes: Processes) -> None:
    """Cut the gradient, over the weights of all processes, to a length."""
    every = [p for module in (network, head) for p in module.parameters() if p.grad is not None]
    shard = head.head.weight if isinstance(head, ShardedHead) else None
    square = _square([p for p in every if p is not shard])
    if shard is not None:
        square = square + processes.count * processes.mean(_square([shard]))
    nn.utils.clip_grads_with_norm_(every, longest, square.sqrt())


def _square(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The squared length of their gradient."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]).square()
