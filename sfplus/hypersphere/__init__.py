"""Mathematics on the hypersphere: energies, angular classifiers, projections, convolution. Needs nothing but torch.

A head is a classifier on top of any network: `head.loss(features, labels)` trains it, `head.predict(features)` gives
logits without margin, `head.weight` (C, d) are the classifiers; see `Head`. SphereFace+ is any head's loss plus
`class_energy(head.weight, labels)`; MHE, half-space MHE, A-MHE and CoMHE of a whole network are `HypersphericalEnergy`.
A head for more classes than one GPU holds is `ShardedHead`, on torch.distributed.
"""

from __future__ import annotations

from sfplus.hypersphere.class_energy import class_energy
from sfplus.hypersphere.diagnostics import Spread, spread, spread_of_layers
from sfplus.hypersphere.energy import hyperspherical_energy
from sfplus.hypersphere.heads import HEADS, AdaFace, ArcFace, CosFace, NormFace, Softmax
from sfplus.hypersphere.margin import ASoftmax, Head, LSoftmax, margin_cosine
from sfplus.hypersphere.network_energy import HypersphericalEnergy
from sfplus.hypersphere.orthonormality import Orthonormality, orthonormal_penalty, orthonormal_regularizer
from sfplus.hypersphere.projection import (
    AdversarialProjection,
    AngleProjection,
    GroupProjection,
    Projection,
    RandomProjection,
)
from sfplus.hypersphere.reference_energy import least_energy, random_energy
from sfplus.hypersphere.sharded_head import ShardedHead
from sfplus.hypersphere.sphere_conv import (
    SphereConv2d,
    WeightNormLinear,
    to_sphere,
)
from sfplus.hypersphere.successors import SphereFace2, SphereFaceR

__all__ = [
    "HEADS",
    "ASoftmax",
    "AdaFace",
    "AdversarialProjection",
    "AngleProjection",
    "ArcFace",
    "CosFace",
    "GroupProjection",
    "Head",
    "HypersphericalEnergy",
    "LSoftmax",
    "NormFace",
    "Orthonormality",
    "Projection",
    "RandomProjection",
    "ShardedHead",
    "Softmax",
    "SphereConv2d",
    "SphereFace2",
    "SphereFaceR",
    "Spread",
    "WeightNormLinear",
    "class_energy",
    "hyperspherical_energy",
    "least_energy",
    "margin_cosine",
    "orthonormal_penalty",
    "orthonormal_regularizer",
    "random_energy",
    "spread",
    "spread_of_layers",
    "to_sphere",
]
