"""The dose of an energy: how far it can turn a classifier in a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sfplus.hypersphere.energy import directions
from sfplus.hypersphere.riesz_kernel import Kernel
from sfplus.recipes.settings.energy import EnergySettings
from sfplus.recipes.settings.train import SolverSettings
from sfplus.training.schedule import learning_rate

_ANCHORS, _PAIRS = 256, 1 << 22  # classifiers whose push is measured, and pairs of them in memory at most


@dataclass(frozen=True)
class EnergyDose:
    """How far the energy turns a classifier over a run, if nothing opposes it.

    Attributes:
        degrees: the mean over classifiers, in degrees.
        weight: the weight of the energy.
        steps: the steps of the run.
        classes: the number of classifiers, N.
    """

    degrees: float
    weight: float
    steps: int
    classes: int

    def weight_for(self, degrees: float) -> float:
        """Return the weight that turns a classifier by so many degrees; infinite without a push."""
        return degrees * self.weight / self.degrees if self.degrees else math.inf

    @property
    def weight_of_sum(self) -> float:
        """The weight that makes the mean over pairs the sum over all ordered pairs, E of the MHE paper: N (N - 1)."""
        return float(self.classes * (self.classes - 1))

    def describe(self) -> str:
        """Return the dose in one line."""
        text = (
            f"energy: a weight of {self.weight:g} can turn each of {self.classes:,} classifiers by about "
            f"{_two_digits(self.degrees)} degrees in {self.steps:,} steps"
        )
        if 0 < self.degrees < 1:
            return f"{text}; for one degree: {_two_digits(self.weight_for(1))}"
        return text


def _two_digits(number: float) -> str:
    return f"{float(f'{number:.2g}'):,g}"  # 880, where the format .2g alone gives 8.8e+02


def energy_dose(classifiers: Tensor, settings: SolverSettings) -> EnergyDose | None:
    """Return the dose of the energy of a run that starts from these classifiers.

    There is none in mode `caffe`, and none for an energy of the user's own.

    The modes `paper` and `batch` average over pairs, so that the expected gradient of a classifier has the factor 2/N.
    A constant gradient g turns a classifier w by the sum of the learning rates, times g / |w| of its component across
    w, times 1 / (1 - momentum). g is measured at the start. It is thus what the energy does alone and at first: the
    loss opposes it, the push weakens as classifiers move apart, and a dose of tens of degrees ends at an equilibrium.

    Args:
        classifiers: (N, d), the weights at the start.
        settings: the settings of the run in steps, with an energy.
    """
    energy = settings.energy
    if not isinstance(energy, EnergySettings) or energy.mode == "caffe" or len(classifiers) < 2:
        return None
    rates = sum(learning_rate(step, settings) for step in range(1, settings.max_iter + 1))
    kernel = Kernel(energy.power, "geodesic" if energy.mode == "batch" else "euclidean")
    turn = rates / (1 - settings.momentum) * energy.weight * 2 / len(classifiers) * mean_push(classifiers, kernel)
    return EnergyDose(math.degrees(turn), energy.weight, settings.max_iter, len(classifiers))


@torch.no_grad()
def mean_push(classifiers: Tensor, kernel: Kernel) -> float:
    """Return how fast the mean energy of a classifier with the others turns it, per unit of gradient descent.

    It is |t| / |w|^2, averaged over up to 256 evenly spaced classifiers, with t the gradient of that mean energy with
    respect to the direction of w, without its component along w. Directions drawn at random give about
    |df/dangle| / sqrt(N) at 90 degrees.

    Args:
        classifiers: (N, d), N >= 2.
        kernel: the energy of a pair.
    """
    weights = classifiers.detach().float()
    unit = directions(weights)
    count = max(1, min(_ANCHORS, _PAIRS // len(unit), len(unit)))
    rows = torch.linspace(0, len(unit) - 1, count, device=unit.device).round().long()
    cosines = unit[rows] @ unit.T
    slopes = kernel.derivatives(cosines, 1)[1].scatter(1, rows[:, None], 0.0)
    pushes = slopes @ unit / (len(unit) - 1)
    across = pushes - (pushes * unit[rows]).sum(1, keepdim=True) * unit[rows]
    return float((across.norm(dim=1) / weights[rows].square().sum(1)).mean())
