"""Mathematics on the hypersphere: energies and angular classifiers. Needs nothing but torch.

A head is a module with `forward(features (M, d), labels (M,)) -> logits (M, C)`, `predict(features) -> logits`
without margin, a `weight (C, d)` and a `current_lambda`; `HEADS` finds its class by the name used in recipes.
"""

from __future__ import annotations

from sfplus.hypersphere.bounds import least_energy, random_energy
from sfplus.hypersphere.class_energy import class_energy
from sfplus.hypersphere.diagnostics import Spread, spread, spread_of_layers
from sfplus.hypersphere.energy import hyperspherical_energy
from sfplus.hypersphere.margin import ASoftmax, margin_cosine
from sfplus.hypersphere.projection import (
    AdversarialProjection,
    AngleProjection,
    GroupProjection,
    Projection,
    RandomProjection,
)
from sfplus.hypersphere.regularizer import HypersphericalEnergy

HEADS = {"asoftmax": ASoftmax}

__all__ = [
    "HEADS",
    "ASoftmax",
    "AdversarialProjection",
    "AngleProjection",
    "GroupProjection",
    "HypersphericalEnergy",
    "Projection",
    "RandomProjection",
    "Spread",
    "class_energy",
    "hyperspherical_energy",
    "least_energy",
    "margin_cosine",
    "random_energy",
    "spread",
    "spread_of_layers",
]
