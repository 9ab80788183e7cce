"""Mathematics on the hypersphere: energies, angular classifiers, projections, convolution. Depends on torch only.

A head is a classifier on top of any network: `head(features, labels)` is the training loss, `head.predict(features)`
returns logits without margin, `head.weight` (C, d) holds the classifier weights; see `Head`. SphereFace+ is the loss of
any head plus `class_energy(head.weight, labels)`; MHE, half-space MHE, A-MHE and CoMHE of a whole network are
`HypersphericalEnergy`. `ShardedHead` is a head with more classes than one GPU can hold, on torch.distributed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sfplus.hypersphere.class_energy import class_energy
from sfplus.hypersphere.distillation import cosine_distillation, relational_distillation
from sfplus.hypersphere.energy import hyperspherical_energy
from sfplus.hypersphere.heads import HEADS
from sfplus.hypersphere.heads.adaface import AdaFace
from sfplus.hypersphere.heads.arcface import ArcFace
from sfplus.hypersphere.heads.asoftmax import ASoftmax, LSoftmax
from sfplus.hypersphere.heads.base import Head
from sfplus.hypersphere.heads.cosface import CosFace
from sfplus.hypersphere.heads.margins import margin_cosine
from sfplus.hypersphere.heads.normface import NormFace
from sfplus.hypersphere.heads.softmax import Softmax
from sfplus.hypersphere.heads.sphereface2 import SphereFace2
from sfplus.hypersphere.heads.sphereface_r import SphereFaceR
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
from sfplus.hypersphere.sphere_conv import (
    SphereConv2d,
    WeightNormLinear,
    to_sphere,
)
from sfplus.hypersphere.uniformity import Uniformity, measure_layer_uniformity, measure_uniformity

if TYPE_CHECKING:
    from sfplus.hypersphere.sharded_head import ShardedHead

# The names of version 0.1, which will go in the next release.
Spread, spread, spread_of_layers = Uniformity, measure_uniformity, measure_layer_uniformity

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
    "Uniformity",
    "WeightNormLinear",
    "class_energy",
    "cosine_distillation",
    "hyperspherical_energy",
    "least_energy",
    "margin_cosine",
    "measure_layer_uniformity",
    "measure_uniformity",
    "orthonormal_penalty",
    "orthonormal_regularizer",
    "random_energy",
    "relational_distillation",
    "spread",
    "spread_of_layers",
    "to_sphere",
]


def __getattr__(name: str) -> Any:
    """Import `ShardedHead` at its first use: it imports torch's compiler, which takes more than a second."""
    if name != "ShardedHead":
        raise AttributeError(f"module 'sfplus.hypersphere' has no attribute '{name}'")
    return importlib.import_module("sfplus.hypersphere.sharded_head").ShardedHead
