"""Hyperspherical uniformity: how evenly the neurons of a layer are distributed, measured by several figures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sfplus.hypersphere.energy import directions, hyperspherical_energy
from sfplus.hypersphere.neurons import neuron_layers
from sfplus.hypersphere.reference_energy import least_energy, random_energy

_ROWS = 2048  # of a block of cosines


@dataclass(frozen=True)
class Uniformity:
    """The distribution of N directions over the sphere in R^d. Angles are in radians; zero vectors are left out.

    Attributes:
        count: Number N of directions.
        zeros: Number of zero vectors.
        dimension: Dimension d.
        power: Power s of the energies.
        energy: Mean energy of the pairs (euclidean).
        random: Its expectation for independent uniform directions (`random_energy`).
        least: A lower bound of it, often attained (`least_energy`).
        mean_angle: Mean angle over unordered pairs.
        nearest: Angle of each direction to its nearest neighbour, float32 (N,) on the CPU.
        redundancy: 1 - r / min(N, d) with r = N^2 / sum_ij cos_ij^2, the number of dimensions that the directions
            fill evenly (from their frame potential; Benedetto and Fickus 2003): 0 for orthogonal directions and
            tight frames, close to 1 if all directions are on one line.
    """

    count: int
    zeros: int
    dimension: int
    power: float
    energy: float
    random: float
    least: float
    mean_angle: float
    nearest: Tensor
    redundancy: float

    @property
    def min_angle(self) -> float:
        """The smallest angle between two directions."""
        return float(self.nearest.min())

    @property
    def mean_nearest(self) -> float:
        """The mean angle to the nearest neighbour."""
        return float(self.nearest.mean())

    @property
    def excess(self) -> float:
        """The energy on a scale from 0, the lower bound, to 1, random directions; above 1 is worse than random."""
        gap = self.random - self.least
        return (self.energy - self.least) / gap if 0 < gap < math.inf else math.nan


@torch.no_grad()
def measure_uniformity(weight: Tensor, power: float = 2.0, half_space: bool = False) -> Uniformity:
    """Measure how evenly directions are distributed over the sphere; memory is O(N d).

    Args:
        weight: Directions of any norm (N, d), N >= 2, floating.
        power: Power s >= 0 of the energies.
        half_space: Treat a direction and its opposite as the same neuron: angles are those between lines.

    Raises:
        ValueError: If there are fewer than two directions.
    """
    nonzero = weight[weight.ne(0).any(1)]
    energy = float(hyperspherical_energy(nonzero, power, half_space=half_space))
    unit = directions(nonzero)
    count, dimension = unit.shape
    nearest, angles, potential = [], 0.0, 0.0
    for start in range(0, count, _ROWS):
        cosine = (unit[start : start + _ROWS] @ unit.T).clamp_(-1, 1)
        potential += float(cosine.square().sum())
        cosine = cosine.abs_() if half_space else cosine
        row = torch.arange(len(cosine), device=cosine.device)
        cosine[row, start + row] = 1.0  # an angle of 0 to itself adds nothing to the sum
        angles += float(cosine.acos().sum())
        cosine[row, start + row] = -1.0  # and must not be the nearest
        nearest.append(cosine.amax(1).acos())
    return Uniformity(
        count=count,
        zeros=len(weight) - count,
        dimension=dimension,
        power=power,
        energy=energy,
        random=random_energy(count, dimension, power, half_space),
        least=least_energy(count, dimension, power, half_space),
        mean_angle=angles / (count * (count - 1)),
        nearest=torch.cat(nearest).float().cpu(),
        redundancy=1 - count**2 / potential / min(count, dimension),
    )


def measure_layer_uniformity(
    model: nn.Module, power: float = 2.0, half_space: bool = False, most: int = 20_000
) -> dict[str, Uniformity]:
    """Measure each layer of a model that `HypersphericalEnergy` includes, by name; grouped ones as `name[g]`.

    Layers with fewer than two nonzero neurons are left out. Weights are read in evaluation mode, so that
    parametrisations with a state, such as spectral_norm, are not updated.

    Args:
        model: Any network.
        power: Power s >= 0 of the energies.
        half_space: Treat a neuron and its opposite as the same.
        most: Number of neurons of a layer to measure, the first ones: time grows with its square.

    Raises:
        ValueError: If the model has no such layer.
    """
    result, training = {}, [module for module in model.modules() if module.training]
    model.eval()
    try:
        for layer in neuron_layers(model):
            groups = layer.neurons().detach()
            for index, group in enumerate(groups[:, :most]):
                if int(group.ne(0).any(1).sum()) > 1:
                    name = layer.name if len(groups) == 1 else f"{layer.name}[{index}]"
                    result[name] = measure_uniformity(group, power, half_space)
    finally:
        for module in training:
            module.training = True
    if not result:
        raise ValueError("the model has no convolution or linear layer with at least two neurons")
    return result
