"""Networks of timm and torchvision in the place of a SphereFace network."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from sfplus.errors import DependencyError, UsageError

PREFIXES = ("timm:", "torchvision:")


def backbone(name: str, feature_size: int, height: int, width: int) -> nn.Module:
    """Build a freshly initialised network whose classifier is a linear layer to the feature.

    Its state has the names of the library. Nothing is downloaded.

    Args:
        name: `timm:NAME` or `torchvision:NAME`, for example `timm:resnet18`.
        feature_size: length of a feature.
        height: of a crop, pixels; told to networks that must know it.
        width: of a crop, pixels.

    Raises:
        UsageError: the library has no such network, or the network does not take such crops.
        DependencyError: timm is not installed.
    """
    library, _, model = name.partition(":")
    try:
        package: Any = importlib.import_module(library if library == "timm" else "torchvision.models")
    except ImportError as error:
        remedy = "install it: pip install 'sfplus[timm]'"
        raise DependencyError(f"cannot be imported ({error})", where=library, remedy=remedy) from None
    own = {} if library == "timm" else {"module": package}  # torchvision lists detectors too
    if model not in package.list_models(**own):  # so that no name can mean a download or a folder
        remedy = f"see {package.__name__}.list_models()"
        raise UsageError(f"{library} has no network '{model}'", where="network", remedy=remedy)
    try:
        if library == "timm":
            network = _timm(package, model, feature_size, (height, width))
        else:
            network = package.get_model(model, weights=None, num_classes=feature_size)
        with torch.inference_mode():
            shape = tuple(network.eval()(torch.zeros(2, 3, height, width)).shape)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        first = str(error).partition("\n")[0]
        raise UsageError(f"{name} does not take crops of {height}x{width} ({first})", where="network") from None
    if shape != (2, feature_size):
        raise UsageError(f"{name} makes {shape} of 2 crops, not (2, {feature_size})", where="network")
    return network.train()


def _timm(timm: Any, model: str, feature_size: int, size: tuple[int, int]) -> nn.Module:
    try:  # transformers must know the size; others do not know the argument
        return timm.create_model(model, num_classes=feature_size, img_size=size)  # type: ignore[no-any-return]
    except TypeError:
        return timm.create_model(model, num_classes=feature_size)  # type: ignore[no-any-return]
