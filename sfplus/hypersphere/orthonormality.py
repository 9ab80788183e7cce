"""Orthonormality of the neurons: SphereNet's regulariser, and the baseline that the MHE paper compares with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfplus.hypersphere.neurons import neuron_layers
from sfplus.hypersphere.riesz_kernel import wide_dtype
from sfplus.hypersphere.sphere_conv import SphereConv2d


def orthonormal_penalty(weight: Tensor, groups: int = 1, orthogonal: bool = False) -> Tensor:
    """Return the penalty of one layer, 1/2 ||W W^T - I||_F^2; the rows of W are the filters, not normalised.

    This is SphereNet's regulariser; the original multiplies its sum over the sphere layers by 2e-4 and gives these
    layers no weight decay. Filters of different groups see different channels and are not compared. Computed in
    float32 or float64, also under autocast.

    Args:
        weight: Filters (filters, ...), floating.
        groups: Number of groups of the convolution.
        orthogonal: Penalise only the products of different filters and leave their norms free.

    Returns:
        A scalar.
    """
    with torch.autocast(weight.device.type, enabled=False):
        rows = weight.to(wide_dtype(weight)).reshape(groups, weight.shape[0] // groups, -1)
        gram = rows @ rows.mT
        diagonal = gram.diagonal(dim1=-2, dim2=-1) if orthogonal else gram.new_ones(gram.shape[:-1])
        return 0.5 * (gram - torch.diag_embed(diagonal)).square().sum()


def orthonormal_regularizer(model: nn.Module) -> Tensor:
    """Return the sum of `orthonormal_penalty` over the `SphereConv2d` layers of a network, as in SphereNet's code.

    Raises:
        ValueError: If the network has no such layer.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, SphereConv2d)]
    if not layers:
        raise ValueError("the model has no SphereConv2d; convert it with to_sphere first")
    return torch.stack([orthonormal_penalty(layer.weight, layer.groups) for layer in layers]).sum()


class Orthonormality(nn.Module):
    """The orthonormal penalty of all hidden layers of a network, with the interface of `HypersphericalEnergy`.

    Args:
        model: Any network; its last layer by order of definition is left out.
        weight: Factor of each layer's penalty.
        orthogonal: Leave the norms of the neurons free, as in `orthonormal_penalty`.

    Attributes:
        layers: The hidden layers.
        values: The penalty of each layer by name, detached, from the last call.
    """

    def __init__(self, model: nn.Module, weight: float, orthogonal: bool = False) -> None:
        super().__init__()
        self.weight, self.orthogonal = weight, orthogonal
        self.layers = tuple(neuron_layers(model)[:-1])
        self.values: dict[str, Tensor] = {}

    def forward(self) -> Tensor:
        """Return the weighted sum of the layers' penalties, a scalar to add to the loss."""
        total = torch.zeros((), device=self.layers[0].neurons().device)
        for layer in self.layers:
            neurons = layer.neurons()
            value = orthonormal_penalty(neurons.flatten(0, 1), len(neurons), self.orthogonal)
            self.values[layer.name] = value.detach()
            total = total + self.weight * value
        return total

    def step(self, lr: float) -> None:
        """Do nothing: the penalty has no state."""
