"""Networks of the user's own, made by `package.module:function`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from sfplus.errors import UsageError, first_line
from sfplus.io.import_path import argument_names, bind_options, import_object
from sfplus.networks.backbones import check_training_output
from sfplus.networks.registry import DEFAULT_INPUT, NEUTRAL_OPTIONS, parse_size

NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


def create_own(
    path: str,
    options: Mapping[str, Any] = NO_OPTIONS,
    *,
    feature_size: int = 512,
    input: str = DEFAULT_INPUT,
    **standard: Any,
) -> nn.Module:
    """Create a network of the user's own: (N, 3, H, W) -> (N, feature_size). This imports and runs its code.

    Args:
        path: `package.module:function`, or a class.
        options: see `build_own`.
        feature_size: length of a feature.
        input: size of the crops, height x width.
        standard: see `build_own`.

    Returns:
        The network, in training mode.

    Raises:
        UsageError: As `build_own`, or if the network does not turn crops into features.
    """
    network = build_own(path, options, feature_size=feature_size, input=input, **standard)
    check_features(network, feature_size, (3, *parse_size(input)), path)
    return network.train()


def build_own(
    path: str,
    options: Mapping[str, Any] = NO_OPTIONS,
    *,
    feature_size: int = 512,
    input: str = DEFAULT_INPUT,
    **standard: Any,
) -> nn.Module:
    """Import and call a function of the user's own that makes a network, which is not tried.

    The function is called with `feature_size`, with `crop_size`, the height and width of a crop, if its signature has
    it, and with the options.

    Args:
        path: `package.module:function`, or a class.
        options: arguments of the user's, of any names but those that sfplus sets.
        feature_size: length of a feature.
        input: size of the crops, height x width.
        standard: `width`, `block` and `batch_norm`, which recipes always contain: they are left out if the function
            does not have them and they have their defaults.

    Raises:
        UsageError: If the function does not exist, does not take these arguments or fails.
    """
    crop_size = parse_size(input)
    optional = {name: (standard.get(name, neutral), neutral) for name, neutral in NEUTRAL_OPTIONS.items()}
    optional["crop_size"] = (crop_size, crop_size)
    return call_own(path, {"feature_size": feature_size}, optional, options)


def bind_own(
    path: str, required: Mapping[str, Any], optional: Mapping[str, tuple[Any, Any]], options: Mapping[str, Any]
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Import a function of the user's own that makes a network, and return it with its checked arguments.

    Args:
        path: `package.module:function`, or a class.
        required: arguments that the function must take.
        optional: arguments that it is given if its signature has them, as their value and the value that they may have
            if it has not.
        options: arguments of the user's.

    Raises:
        UsageError: If the function does not exist, or does not take these arguments.
    """
    function = import_object(path)
    parameters = argument_names(function)
    for name, (value, neutral) in optional.items():
        if name not in parameters and value != neutral:
            raise UsageError(f"has no option '{name}'", where=path, remedy=f"leave {name} out")
    supplied = {**required, **{name: value for name, (value, _) in optional.items() if name in parameters}}
    return function, supplied | bind_options(function, options, path, tuple(supplied))


def call_own(
    path: str, required: Mapping[str, Any], optional: Mapping[str, tuple[Any, Any]], options: Mapping[str, Any]
) -> nn.Module:
    """Call a function of the user's own and return the network that it makes; for the arguments see `bind_own`.

    Raises:
        UsageError: If the function does not exist, does not take these arguments, fails, or makes no network.
    """
    function, arguments = bind_own(path, required, optional, options)
    try:
        network = function(**arguments)
    except Exception as error:  # code of the user's
        reason = f"failed ({type(error).__name__}: {first_line(error)})"
        raise UsageError(reason, where=path, remedy="mend this function") from error
    if not isinstance(network, nn.Module):
        reason = f"returns {type(network).__name__}, not a network"
        raise UsageError(reason, where=path, remedy="return a torch.nn.Module")
    return network


def check_features(network: nn.Module, features: int, image: tuple[int, int, int], where: str) -> None:
    """Check what a network makes of two images of zeros, in evaluation mode.

    Args:
        network: on the CPU; in evaluation mode afterwards.
        features: the numbers that it should return for an image.
        image: channels, height and width.
        where: the network, for messages.

    Raises:
        UsageError: If it fails, or returns something else than (2, features) floating-point numbers.
    """
    size = "x".join(map(str, image))
    try:
        with torch.no_grad():  # parameters whose shapes come from these images must be trainable
            result = network.float().eval()(torch.zeros(2, *image))
    except Exception as error:  # code of the user's, or of a library, which has no common exception
        reason = f"does not accept images of {size} ({type(error).__name__}: {first_line(error)})"
        raise UsageError(reason, where=where, remedy="take (N, channels, height, width)") from error
    if not isinstance(result, Tensor):
        reason = f"turns images into {type(result).__name__}, not into a tensor"
        raise UsageError(reason, where=where, remedy=f"return (N, {features})")
    if tuple(result.shape) != (2, features) or not result.is_floating_point():
        reason = f"turns 2 images into {tuple(result.shape)} {result.dtype}".replace("torch.", "")
        raise UsageError(reason, where=where, remedy=f"return (N, {features}) floating-point numbers")
    check_training_output(network, image, where)
