"""Checks of settings of image tasks that would fail only when the training starts."""

from __future__ import annotations

import torch
from torch import nn

from sfplus.image_tasks.cnn import bind_classifier, create_classifier
from sfplus.image_tasks.own_images import find_own_images
from sfplus.networks import is_function
from sfplus.recipes.settings.classify import NETWORK_KEYS, ClassifySettings
from sfplus.recipes.settings.images import ImageDataSettings
from sfplus.recipes.settings.own_code import OwnEnergySettings
from sfplus.training.own_energy import OwnEnergy, find_energy

_CLASSES = 10  # of the networks that are tried
_SIZES = {"cifar10": (3, 32), "cifar100": (3, 32), "mnist": (1, 28)}  # channels, height and width of an image


def check_images(settings: ImageDataSettings) -> None:
    """Check that code of the user's own for images exists and takes its options; no image is read.

    Raises:
        UsageError: If it does not.
    """
    if settings.is_code:
        find_own_images(settings.name, settings.options, root=settings.root, download=settings.download)


def check_classifier(settings: ClassifySettings) -> None:
    """Check that the network and a regulariser of the user's own can be created.

    If the size of an image is not known, code of the user's own is imported and its options are checked.

    Raises:
        UsageError: If one of them does not exist, does not take its options or does not work.
    """
    check_images(settings.data)
    sizes = _SIZES | {"files": (3, settings.data.crop)}
    if settings.data.name not in sizes:
        if is_function(settings.network):
            options = settings.model_dump(include={"width", "weight_norm"})
            bind_classifier(settings.network, settings.network_options, **options)
        if isinstance(settings.energy, OwnEnergySettings):
            find_energy(settings.energy)
        return
    channels, size = sizes[settings.data.name]
    with torch.random.fork_rng(devices=[]):
        is_own = is_function(settings.network) or isinstance(settings.energy, OwnEnergySettings)
        try:
            with torch.device("cpu" if is_own else "meta"):
                network = _create(settings, channels, size)
        except Exception:  # not every network can be created so; if the settings are wrong, this says it
            network = _create(settings, channels, size)
        if isinstance(settings.energy, OwnEnergySettings):
            OwnEnergy(settings.energy, network).unweighted()


def _create(settings: ClassifySettings, channels: int, size: int) -> nn.Module:
    options = settings.model_dump(include=NETWORK_KEYS)
    options |= {"channels": channels, "size": size}
    return create_classifier(settings.network, _CLASSES, settings.network_options, **options)
