"""Networks of timm and torchvision."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import torch
from torch import Tensor, nn

from sfplus.errors import DependencyError, UsageError, first_line, suggest
from sfplus.io.extras import import_torchvision, install_command

NETWORKS = {"timm:": "timm", "torchvision:": "torchvision.models"}
"""The package that lists and creates the networks of a prefix."""


def build(name: str, *, feature_size: int, crop_size: tuple[int, int]) -> nn.Module:
    """Create a network of a library with fresh weights, whose classifier is replaced by a linear layer to the feature.

    The tensors keep the library's names. Nothing is downloaded.

    Args:
        name: `timm:NAME` or `torchvision:NAME`, for example `timm:resnet18`.
        feature_size: length of a feature.
        crop_size: height and width of the crops, pixels; passed on to the networks that need it.

    Raises:
        UsageError: If the library has no such network, or the network does not accept such crops.
        DependencyError: If timm is not installed.
    """
    library, _, model = name.partition(":")
    import_torchvision()  # which timm imports, too
    try:
        package: Any = importlib.import_module(NETWORKS[f"{library}:"])
    except ImportError as error:
        remedy = f"install it: {install_command('timm')}" if library == "timm" else ""
        raise DependencyError(f"cannot be imported ({error})", where=library, remedy=remedy) from None
    only_classifiers = {} if library == "timm" else {"module": package}  # torchvision also lists detectors
    if model not in package.list_models(**only_classifiers):  # names that mean a download or a folder are not listed
        remedy = suggest(model, package.list_models(**only_classifiers)) or f"see {package.__name__}.list_models()"
        raise UsageError(f"{library} has no network '{model}'", where="network", remedy=remedy)
    try:
        if library == "timm":
            network = _create_timm(package, model, feature_size, crop_size)
        else:
            network = package.get_model(model, weights=None, num_classes=feature_size)
        with torch.inference_mode():
            shape = tuple(network.eval()(torch.zeros(2, 3, *crop_size)).shape)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        size = "{}x{}".format(*crop_size)
        raise UsageError(f"{name} does not accept crops of {size} ({reason})", where="network") from None
    if shape != (2, feature_size):
        raise UsageError(f"{name} turns 2 crops into {shape}, not (2, {feature_size})", where="network")
    check_training_output(network, (3, *crop_size), name)
    return network.train()


def check_training_output(network: nn.Module, image: tuple[int, int, int], name: str) -> None:
    """Check that a network returns a tensor in training too; the network and random numbers do not change.

    Nothing is computed, unless the network does not run without numbers.

    Raises:
        UsageError: If it fails or returns something else, such as networks with auxiliary classifiers.
    """
    try:
        copied = copy.deepcopy(network).train()
    except Exception:  # not every module can be copied
        return
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            result = copied.to("meta")(torch.zeros(2, *image, device="meta"))
        except Exception:
            result = _run_copy(copy.deepcopy(network).train(), image, name)
    if not isinstance(result, Tensor):
        reason = f"returns {type(result).__name__} in training, not a tensor of features"
        raise UsageError(reason, where=name, remedy="choose a network with one output")


def _run_copy(network: nn.Module, image: tuple[int, int, int], name: str) -> Any:
    """Return what a network computes of two images of zeros in training."""
    try:
        return network(torch.zeros(2, *image))
    except Exception as error:  # libraries have no common exception
        size = "{}x{}".format(*image[1:])
        reason = f"cannot be trained on crops of {size} ({first_line(error)})"
        raise UsageError(reason, where=name, remedy="choose another network") from None


def _create_timm(timm: Any, model: str, feature_size: int, crop_size: tuple[int, int]) -> nn.Module:
    try:  # transformers need the size; other networks do not have the argument
        return timm.create_model(model, num_classes=feature_size, img_size=crop_size)  # type: ignore[no-any-return]
    except TypeError:
        return timm.create_model(model, num_classes=feature_size)  # type: ignore[no-any-return]
