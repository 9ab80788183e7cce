"""Networks that turn crops into features; importing this package does not import torch."""

from __future__ import annotations

from sfplus.networks.registry import (
    DEFAULT_INPUT,
    NEUTRAL_OPTIONS,
    create,
    is_function,
    is_library_network,
    is_network,
    network_names,
    network_options,
    parse_size,
)

__all__ = [
    "DEFAULT_INPUT",
    "NEUTRAL_OPTIONS",
    "create",
    "is_function",
    "is_library_network",
    "is_network",
    "network_names",
    "network_options",
    "parse_size",
]
