"""Losses with which a network learns the features of another one, its teacher (knowledge distillation)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sfplus.hypersphere.riesz_kernel import wide_dtype


def cosine_distillation(features: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean of 1 - cos between each feature and that of the teacher.

    A feature of length 0 has the cosine 0 and no gradient.

    Args:
        features: (B, d) of the student, not normalised.
        teacher: (B, d) of the teacher for the same crops, not normalised.

    Returns:
        A scalar in [0, 2], float32 or wider: 0 if all directions agree.

    Raises:
        ValueError: If the shapes differ.
    """
    student, target = _directions(features, teacher)
    if student.shape != target.shape:
        raise ValueError(f"expected two tensors of one shape, got {tuple(student.shape)} and {tuple(target.shape)}")
    return 1 - (student * target).sum(1).mean()


def relational_distillation(features: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference between the pairwise cosines of the student and those of the teacher.

    The sizes of the features may differ, since only angles within each batch are compared.

    Args:
        features: (B, d) of the student, not normalised, B >= 2.
        teacher: (B, e) of the teacher for the same crops, not normalised.

    Returns:
        A scalar in [0, 4], float32 or wider, over the B (B - 1) ordered pairs of different crops.

    Raises:
        ValueError: If the batches differ in size or have fewer than two crops.

    Source: Tung and Mori, Similarity-Preserving Knowledge Distillation, 2019; here without the normalisation of rows,
    and without the diagonal, which is always 1.
    """
    student, target = _directions(features, teacher)
    count = len(student)
    if len(target) != count or count < 2:
        raise ValueError(f"expected two batches of the same 2 or more crops, got {count} and {len(target)}")
    difference = student @ student.T - target @ target.T
    return difference.fill_diagonal_(0).square().sum() / (count * (count - 1))


def _directions(features: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if features.ndim != 2 or teacher.ndim != 2:
        raise ValueError(f"expected (B, d) and (B, e), got {tuple(features.shape)} and {tuple(teacher.shape)}")
    dtype = wide_dtype(features)
    return F.normalize(features.to(dtype)), F.normalize(teacher.to(dtype))
