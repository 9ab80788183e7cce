"""Losses and other operations of face training, whose classifier is in every process or sharded by class among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from sfplus.errors import UsageError
from sfplus.hypersphere import HEADS, Head, ShardedHead, class_energy
from sfplus.io.import_path import bind_options, import_object
from sfplus.recipes.settings.energy import EnergySettings
from sfplus.recipes.settings.heads import HeadSettings
from sfplus.recipes.settings.own_code import OwnEnergySettings, OwnHeadSettings
from sfplus.recipes.settings.train import SolverSettings
from sfplus.training.distributed import ProcessGroup
from sfplus.training.teacher import Distillation
from sfplus.weights.model_folder import copy_by_name


def find_head(settings: HeadSettings) -> tuple[type[Head], dict[str, Any]]:
    """Return the class of a head and its options; of a head of the user's own, this imports its code.

    Raises:
        UsageError: If there is no such class, it is not a subclass of `Head`, or it does not have these options.
    """
    if not isinstance(settings, OwnHeadSettings):
        return HEADS[settings.name], settings.model_dump(exclude={"name"})
    kind = import_object(settings.name)
    if not (isinstance(kind, type) and issubclass(kind, Head)):
        remedy = "derive it from sfplus.hypersphere.Head"
        raise UsageError("is not a class of heads", where=settings.name, remedy=remedy)
    return kind, bind_options(kind, settings.code_options, settings.name, positional=("features", "classes"))


def create_head(settings: SolverSettings, features: int, people: int) -> Head | ShardedHead:
    """Create the classifier of the settings; a sharded one needs an existing `ProcessGroup`.

    Args:
        settings: settings of the run.
        features: length of a feature.
        people: number of classes.
    """
    kind, options = find_head(settings.head)
    if settings.classes == "replicated":
        return kind(features, people, **options)
    rate, seed = settings.sample_rate, settings.seed
    return ShardedHead(kind, features, people, averaged=True, sample_rate=rate, seed=seed, **options)


@torch.no_grad()
def load_classifier(tensors: Mapping[str, Tensor], head: Head | ShardedHead) -> bool:
    """Initialise a classifier from the tensors of an unsharded one.

    Returns:
        True if the tensors belong to a classifier of as many people; if False, nothing was loaded.
    """
    if isinstance(head, Head):
        fits = "weight" in tensors and tensors["weight"].shape == head.weight.shape
        return fits and "weight" in copy_by_name(tensors, head).loaded
    try:
        head.load_rows(head.head.weight, tensors["weight"])
    except (KeyError, ValueError):
        return False
    copy_by_name({name: tensor for name, tensor in tensors.items() if name != "weight"}, head.head)
    return True


def gather_head(head: Head | ShardedHead, settings: SolverSettings) -> Head | None:
    """Return the classifier with all its classes.

    All processes must call this function together.

    Returns:
        The head; None in processes other than the first if the head is sharded.
    """
    if isinstance(head, Head):
        return head
    state = head.full_state()
    if state is None:
        return None
    kind, options = find_head(settings.head)
    full = kind(state["weight"].shape[1], head.classes, **options)
    full.load_state_dict({name: value for name, value in state.items() if name != "draws"})
    return full


class FaceLosses(nn.Module):
    """Network, classifier and teacher as one module, whose forward pass gives features and losses of crops.

    Args:
        network: (N, 3, H, W) -> (N, F); it may be compiled.
        head: the classifier; None if there is only a teacher.
        teacher: the teacher; None if there is only a classifier.
        autocast: returns the context in which the network runs; the losses are in float32 or wider.
    """

    def __init__(
        self,
        network: nn.Module,
        head: Head | ShardedHead | None,
        teacher: Distillation | None,
        autocast: Callable[[], AbstractContextManager[object]],
    ) -> None:
        super().__init__()
        self.network, self.head, self.teacher, self.autocast = network, head, teacher, autocast
        self.map = None if teacher is None else teacher.map

    def forward(self, crops: Tensor, labels: Tensor, taught: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return features (B, F) and the losses by name: `loss` of the head, `distillation` of the teacher.

        Args:
            crops: (B, 3, H, W) normalised.
            labels: (B,).
            taught: features of the teacher (B, T), if there is one.
        """
        with self.autocast():
            features = self.network(crops)
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        losses = {} if self.head is None else {"loss": self.head(features, labels)}
        if self.teacher is not None and taught is not None:
            losses["distillation"] = self.teacher.loss(features, taught)
        return features, losses


def count_classes(head: Head | ShardedHead) -> int:
    """Return the number of classes of a classifier."""
    return head.classes if isinstance(head, ShardedHead) else len(head.weight)


def head_energy(
    head: Head | ShardedHead, labels: Tensor, settings: EnergySettings | OwnEnergySettings, processes: ProcessGroup
) -> Tensor:
    """Return the energy of the classifier weights for a global batch, or a value whose mean over processes is this.

    Args:
        head: the classifier.
        labels: (B,) of this process.
        settings: settings of the energy, which is not one of the user's own.
        processes: processes of the training.
    """
    assert isinstance(settings, EnergySettings)
    if isinstance(head, ShardedHead):
        return head.class_energy(labels, settings.power, settings.mode)  # type: ignore[arg-type]
    if settings.mode != "paper":  # the mode `paper` is linear in the samples and needs no labels of other processes
        labels = processes.gather(labels)
    return class_energy(head.weight, labels, settings.power, settings.mode)


@torch.no_grad()
def head_accuracy(head: Head | ShardedHead, features: Tensor, labels: Tensor) -> Tensor:
    """Return the share of features (M, d) whose nearest class, without margin, is their label (M,)."""
    predicted = head.classify(features) if isinstance(head, ShardedHead) else head.predict(features).argmax(1)
    return (predicted == labels).float().mean()


def clip_gradients(
    trained: nn.Module, head: Head | ShardedHead | None, max_norm: float, processes: ProcessGroup
) -> None:
    """Clip the norm of the gradient, taken over the weights of all processes."""
    parameters = [p for p in trained.parameters() if p.grad is not None]
    shard = head.head.weight if isinstance(head, ShardedHead) else None
    square = _squared_norm([p for p in parameters if p is not shard])
    if shard is not None:
        square = square + processes.count * processes.mean(_squared_norm([shard]))
    nn.utils.clip_grads_with_norm_(parameters, max_norm, square.sqrt())


def _squared_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return the squared norm of the gradient of parameters."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]).square()
