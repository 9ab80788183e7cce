"""The network of the settings of a training."""

from __future__ import annotations

from typing import Any

from torch import nn

from sfplus.networks import create, is_network
from sfplus.networks.own_networks import create_own
from sfplus.recipes.settings.train import TrainSettings


def create_network(settings: TrainSettings, size: str) -> tuple[nn.Module, dict[str, Any]]:
    """Create the network of the settings for crops of a size; of the user's own, this runs its code.

    Returns:
        The network, and what config.json says about a network of the user's own beside its name, length and width.

    Raises:
        UsageError: If the network does not have these options, or does not turn crops into features.
    """
    options = settings.model_dump(include={"width", "block", "batch_norm"}) | {"input": size}
    if is_network(settings.network):
        return create(settings.network, feature_size=settings.feature_size, **options), {}
    network = create_own(settings.network, settings.network_options, feature_size=settings.feature_size, **options)
    described = options | ({"network_options": settings.network_options} if settings.network_options else {})
    return network, described
