"""The neurons of a network's layers, as directions on the hypersphere."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy

from sfplus.hypersphere.heads.base import Head
from sfplus.hypersphere.riesz_kernel import wide_dtype


@dataclass(frozen=True)
class Layer:
    """A convolution, a linear layer or a head, whose weight holds one neuron per output.

    Attributes:
        name: The name in `model.named_modules()`.
        module: The layer itself; its weight is read at each use.
    """

    name: str
    module: nn.Module

    def neurons(self) -> Tensor:
        """Return the neurons as vectors (groups, N, d), float32 or wider; neurons of different groups see
        different inputs and are not comparable.

        Raises:
            ValueError: If a lazy layer has no shape yet.
        """
        module = self.module
        weight: Tensor = module.weight  # type: ignore[assignment]
        if is_lazy(weight):
            raise ValueError(f"layer {self.name or type(module).__name__} has no shape yet: run the model once first")
        weight = weight.reshape(getattr(module, "groups", 1), -1, *weight.shape[1:])
        if isinstance(module, _ConvTransposeNd):  # stored as (Cin, Cout / groups, ...)
            weight = weight.transpose(1, 2)
        return weight.flatten(2).to(wide_dtype(weight))


def neuron_layers(model: nn.Module) -> list[Layer]:
    """List the convolutions, linear layers and heads that have two neurons or more, in the order of definition.

    A weight that several layers share is listed once. Depthwise convolutions have one neuron per group and are left
    out. Parametrised weights (weight_norm, spectral_norm, ...) are read as the layer uses them.

    Raises:
        ValueError: If a lazy layer has no shape yet.
    """
    layers, listed = [], set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | _ConvNd | Head):
            layer, weight = Layer(name, module), module.weight
            shared = isinstance(weight, nn.Parameter) and id(weight) in listed
            if not shared and layer.neurons().shape[1] > 1:
                listed.add(id(weight) if isinstance(weight, nn.Parameter) else 0)
                layers.append(layer)
    return layers
