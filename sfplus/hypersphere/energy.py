"""Hyperspherical energy: how evenly directions are spread over the unit sphere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_SQUARED_CHORD = 1e-6
"""Floor of ||a - b||^2 (an angle of 0.001 rad); below it `2 - 2 cos` in float32 is mostly rounding."""


def riesz_kernel(squared: Tensor, power: float) -> Tensor:
    """The energy f_s of pairs at a squared distance: f_s(z) = z^-s, f_0(z) = log(1/z) (MHE paper, section 3.1).

    Args:
        squared: squared chords z^2 > 0, any shape.
        power: s >= 0.
    """
    if power == 0:
        return -0.5 * squared.log()
    return squared.reciprocal() if power == 2 else squared.pow(-power / 2)


def class_energy(weight: Tensor, labels: Tensor, power: float) -> Tensor:
    """The SphereFace+ energy of a batch: classifiers of its labels against the classifiers of all other classes.

    `1 / (m (C - 1)) * sum_i sum_{j != y_i} f_s(||w_{y_i} - w_j||)` with rows normalised, i over the m labels of the
    batch, repetitions included (MHE paper, sections 3.6 and 5.2). Independent random directions in many dimensions
    give -ln(2)/2, 1/sqrt(2) and 1/2 for s = 0, 1 and 2.

    The distance is the chord, squared as `2 - 2 cos` and floored at `SMALLEST_SQUARED_CHORD`: equal classifiers give
    a finite energy, and no gradient, because their direction of escape is undefined. Everywhere else the value and
    the gradients of first and second order are exact. A label that is repeated costs once; memory is that of
    (distinct labels, C) matrices. Finding the distinct labels makes a GPU wait once. Under autocast the computation
    stays in float32.

    Args:
        weight: classifiers (C, d), floating, C >= 2, not necessarily of unit norm.
        labels: class of each sample (M,), int64 in [0, C), M >= 1.
        power: s >= 0; 0, 1 and 2 are the paper's.

    Returns:
        A scalar, float32 or the dtype of `weight` where that is wider.

    Raises:
        ValueError: fewer than two classes, no label, a wrong shape or a negative power: there is no energy.
    """
    if weight.ndim != 2 or labels.ndim != 1:
        raise ValueError(f"weight must be (C, d) and labels (M,), not {tuple(weight.shape)} and {tuple(labels.shape)}")
    if len(weight) < 2 or len(labels) == 0:
        raise ValueError(f"an energy needs two classes and one label, not {len(weight)} and {len(labels)}")
    if not power >= 0:
        raise ValueError(f"the power of an energy is 0 or more, not {power}")
    with torch.autocast(weight.device.type, enabled=False):
        unit = F.normalize(weight.to(torch.promote_types(weight.dtype, torch.float32)), dim=1)
        anchors, counts = torch.unique(labels, return_counts=True)
        squared = (2 - 2 * (unit[anchors] @ unit.T)).clamp_min(SMALLEST_SQUARED_CHORD)
        pairs = riesz_kernel(squared, power).scatter(1, anchors[:, None], 0.0)
        total: Tensor = (pairs.sum(1) * counts).sum()
        return total / (len(labels) * (len(weight) - 1))
