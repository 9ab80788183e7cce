"""Checks of settings that would fail only when a training starts: networks, heads, code of the user's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfplus.errors import UsageError, first_line
from sfplus.hypersphere import Head
from sfplus.networks import is_network
from sfplus.recipes.settings.heads import HeadSettings
from sfplus.recipes.settings.own_code import OwnEnergySettings
from sfplus.recipes.settings.train import SolverSettings, TrainSettings
from sfplus.training.create_network import create_network
from sfplus.training.head_ops import find_head
from sfplus.training.own_energy import OwnEnergy, find_energy

_PEOPLE = 100  # of the heads that are tried


def check_training(settings: SolverSettings, train: TrainSettings | None, size: str, features: int = 512) -> None:
    """Check that network, head and regulariser of a training can be created and work together.

    A network of a library is created without memory or arithmetic where that is possible. Code of the user's own is
    run: its network on two crops, its head and regulariser once; a regulariser of a model that is fine-tuned, and is
    not loaded here, is only imported.

    Args:
        settings: of the training.
        train: the settings of the network; None if a model is fine-tuned, whose network is not known yet.
        size: height x width of the crops.
        features: length of a feature of the model that is fine-tuned; not used if `train` is given.

    Raises:
        UsageError: If one of them does not exist, does not take its options or does not work.
    """
    with torch.random.fork_rng(devices=[]):
        network = None if train is None else _check_network(train, size)
        if not settings.classifies:
            return
        head = check_head(settings.head, features if train is None else train.feature_size)
        if not isinstance(settings.energy, OwnEnergySettings):
            return
        if train is None:
            find_energy(settings.energy)
        else:
            network = network or create_network(train, size)[0]
            _check_energy(settings.energy, nn.ModuleDict({"head": head, "network": network}))


def check_head(settings: HeadSettings, features: int) -> Head:
    """Create the head of the settings for a few people and compute a loss with it.

    Raises:
        UsageError: If there is no such head, its options are wrong, or it does not give a loss with a gradient.
    """
    kind, options = find_head(settings)
    try:
        head = kind(features, _PEOPLE, **options)
        crops, labels = torch.randn(2, features, requires_grad=True), torch.tensor([0, 2])
        loss, scores = head(crops, labels), head.predict(crops)
        loss.backward()
        lambda_ = float(head.current_lambda)
    except Exception as error:  # code of the user's; heads of sfplus raise ValueError for options
        reason = f"failed ({type(error).__name__}: {first_line(error)})"
        raise UsageError(reason, where=settings.name, remedy="mend this head or its options") from error
    weight = getattr(head, "weight", None)
    problem = ""
    if not isinstance(weight, nn.Parameter) or tuple(weight.shape) != (_PEOPLE, features):
        problem = "has no parameter weight of shape (classes, features)"
    elif loss.ndim or not bool(loss.isfinite()) or crops.grad is None or lambda_ != lambda_:
        problem = "does not give a finite scalar loss with a gradient"
    elif not isinstance(scores, Tensor) or tuple(scores.shape) != (2, _PEOPLE):
        problem = "does not predict (N, classes)"
    if problem:
        raise UsageError(problem, where=settings.name, remedy="see sfplus.hypersphere.Head")
    return head


def _check_network(train: TrainSettings, size: str) -> nn.Module | None:
    """Create the network; return one of the user's own, and None for the others, which may have no memory."""
    if not is_network(train.network):
        return create_network(train, size)[0]
    try:
        with torch.device("meta"):
            create_network(train, size)
    except Exception:  # not every network can be created so; if the settings are wrong, this says it
        create_network(train, size)
    return None


def _check_energy(settings: OwnEnergySettings, model: nn.Module) -> None:
    value = OwnEnergy(settings, model).unweighted()
    if not bool(value.isfinite()):
        raise UsageError(f"computes {value.item()}", where=settings.mode, remedy="return a finite number")
    if not value.requires_grad:
        reason = "computes a number that does not depend on the weights"
        raise UsageError(reason, where=settings.mode, remedy="compute it from the parameters of the model")
