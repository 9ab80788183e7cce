"""Regularisers of the user's own, made by `package.module:name`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sfplus.errors import UsageError, first_line
from sfplus.io.import_path import bind_options, import_object
from sfplus.recipes.settings.own_code import OwnEnergySettings


def find_energy(settings: OwnEnergySettings) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the code of a regulariser and its options; this imports the code.

    Raises:
        UsageError: If there is no such code, or it does not take a model and these options.
    """
    function = import_object(settings.mode)
    return function, bind_options(function, settings.code_options, settings.mode, positional=("the model",))


class OwnEnergy(nn.Module):
    """A regulariser of the user's own, whose call returns a scalar, such as `hypersphere.HypersphericalEnergy`.

    It must be a function of the weights of the model: it is computed once per step, and checkpoints do not hold its
    state.

    Args:
        settings: its import path, weight and options.
        model: the model whose weights it reads, on its device.

    Attributes:
        values: the scalar of the last call, without the weight, detached.

    Raises:
        UsageError: If there is no such code, it does not take these options, or it fails.
    """

    def __init__(self, settings: OwnEnergySettings, model: nn.Module) -> None:
        super().__init__()
        self.path, self.weight = settings.mode, settings.weight
        self.values: dict[str, Tensor] = {}
        function, options = find_energy(settings)
        created = self._call(lambda: function(model, **options))
        if not callable(created):
            reason = f"returns {type(created).__name__}, which cannot be called"
            raise UsageError(reason, where=self.path, remedy="return a module or a function without arguments")
        self._code = created, model  # in a tuple: submodules would repeat the state of the model
        self._device: torch.device | None = None

    def forward(self) -> Tensor:
        """Return the scalar times the weight.

        Raises:
            UsageError: If the code fails, or returns something else.
        """
        value = self.unweighted()
        self.values = {"value": value.detach()}
        return self.weight * value

    def unweighted(self) -> Tensor:
        """Return the scalar."""
        compute, model = self._code
        device = next(model.parameters()).device
        if isinstance(compute, nn.Module) and device != self._device:  # the model may have been moved
            compute.to(device)
            self._device = device
        value = self._call(compute)
        if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
            shape = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise UsageError(f"computes {shape}, not a scalar", where=self.path, remedy="return a tensor of shape ()")
        return value

    def step(self, rate: float) -> None:
        """Do nothing: the regularisers of `hypersphere` update their projections here."""

    def _call(self, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # code of the user's
            reason = f"failed ({type(error).__name__}: {first_line(error)})"
            raise UsageError(reason, where=self.path, remedy="mend this code") from error
