"""Networks of the user's own, made by `package.module:function`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sfplus.errors import UsageError, first_line
from sfplus.io.import_path import argument_names, bind_options, import_object
from sfplus.networks.backbones import check_training_output
from sfplus.networks.registry import DEFAULT_INPUT, NEUTRAL_OPTIONS, parse_size


def create_own(path: str, *, feature_size: int = 512, input: str = DEFAULT_INPUT, **options: Any) -> nn.Module:
    """Create a network of the user's own: (N, 3, H, W) -> (N, feature_size). This imports and runs its code.

    The function is called with `feature_size`, with `crop_size`, the height and width of a crop, if its signature has
    it, and with the options.

    Args:
        path: `package.module:function`, or a class.
        feature_size: length of a feature.
        input: size of the crops, height x width.
        options: further arguments. `width`, `block` and `batch_norm`, which recipes always contain, are left out if
            the function does not have them and they have their defaults.

    Returns:
        The network, in training mode.

    Raises:
        UsageError: If the function does not exist, does not take these arguments or fails, or its network does not turn
            crops into features.
    """
    crop_size = parse_size(input)
    optional = {name: (options.pop(name, neutral), neutral) for name, neutral in NEUTRAL_OPTIONS.items()}
    optional["crop_size"] = (crop_size, crop_size)
    network = call_own(path, {"feature_size": feature_size}, optional, options)
    check_features(network, feature_size, (3, *crop_size), path)
    return network.train()


def call_own(
    path: str, required: Mapping[str, Any], optional: Mapping[str, tuple[Any, Any]], options: Mapping[str, Any]
) -> nn.Module:
    """Import a function of the user's own, call it and return the network that it makes.

    Args:
        path: `package.module:function`, or a class.
        required: arguments that the function must take.
        optional: arguments that it is given if its signature has them, as their value and the value that they may have
            if it has not.
        options: arguments of the user's.

    Raises:
        UsageError: If the function does not exist, does not take these arguments, fails, or makes no network.
    """
    function = import_object(path)
    parameters = argument_names(function)
    for name, (value, neutral) in optional.items():
        if name not in parameters and value != neutral:
            raise UsageError(f"has no option '{name}'", where=path, remedy=f"leave {name} out")
    supplied = {**required, **{name: value for name, (value, _) in optional.items() if name in parameters}}
    bound = bind_options(function, options, path, tuple(supplied))
    try:
        network = function(**supplied, **bound)
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
        with torch.inference_mode():
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
