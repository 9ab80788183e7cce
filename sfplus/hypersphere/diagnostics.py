"""How the neurons of a layer are spread: energy against random and best, nearest neighbours, redundancy."""

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
class Spread:
    """How N directions in R^d are spread over the sphere. Angles are in radians. Zero vectors are left out.

    Attributes:
        count: N.
        zeros: how many vectors were zero.
        dimension: d.
        power: s of the energies.
        energy: mean energy of the pairs (euclidean).
        random: its expectation for independent uniform directions (`random_energy`).
        least: a lower bound, often reached (`least_energy`).
        mean_angle: mean over unordered pairs.
        nearest: angle of each direction to its nearest neighbour, float32 (N,) on the CPU.
        redundancy: 1 - r / min(N, d) with r = N^2 / sum_ij cos_ij^2, the number of dimensions that the directions
            fill evenly (from their frame potential; Benedetto and Fickus 2003): 0 for orthogonal directions and
            tight frames, towards 1 where all fall on one line.
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
        """Where the energy stands from the least (0) to that of random directions (1); larger is worse than random."""
        gap = self.random - self.least
        return (self.energy - self.least) / gap if 0 < gap < math.inf else math.nan


@torch.no_grad()
def spread(weight: Tensor, power: float = 2.0, half_space: bool = False) -> Spread:
    """Measure how directions are spread; memory is O(N d).

    Args:
        weight: directions of any norm (N, d), N >= 2, floating.
        power: s >= 0 of the energies.
        half_space: take a direction and its opposite for the same neuron: angles are those between lines.

    Raises:
        ValueError: fewer than two directions.
    """
    live = weight[weight.ne(0).any(1)]
    energy = float(hyperspherical_energy(live, power, half_space=half_space))
    unit = directions(live)
    count, dimension = unit.shape
    nearest, angles, potential = [], 0.0, 0.0
    for start in range(0, count, _ROWS):
        cosine = (unit[start : start + _ROWS] @ unit.T).clamp_(-1, 1)
        potential += float(cosine.square().sum())
        cosine = cosine.abs_() if half_space else cosine
        own = torch.arange(len(cosine), device=cosine.device)
        cosine[own, start + own] = 1.0
        angles += float(cosine.acos().sum())
        cosine[own, start + own] = -1.0
        nearest.append(cosine.amax(1).acos())
    return Spread(
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


def spread_of_layers(
    model: nn.Module, power: float = 2.0, half_space: bool = False, most: int = 20_000
) -> dict[str, Spread]:
    """The spread of each convolution, linear layer and head of a model, by name; grouped convolutions as `name[g]`.

    Layers with fewer than two neurons that are not zero are left out. Weights are read in evaluation mode, so that
    parametrisations with a state, such as spectral_norm, do not move.

    Args:
        model: any network.
        power: s >= 0 of the energies.
        half_space: take a neuron and its opposite for the same.
        most: of a layer with more neurons the first so many are measured: time grows with their square.

    Raises:
        ValueError: the model has no such layer.
    """
    result, training = {}, [module for module in model.modules() if module.training]
    model.eval()
    try:
        for layer in neuron_layers(model):
            groups = layer.neurons().detach()
            for index, group in enumerate(groups[:, :most]):
                if int(group.ne(0).any(1).sum()) > 1:
                    name = layer.name if len(groups) == 1 else f"{layer.name}[{index}]"
                    result[name] = spread(group, power, half_space)
    finally:
        for module in training:
            module.training = True
    if not result:
        raise ValueError("the model has no convolution or linear layer of two neurons or more")
    return result
