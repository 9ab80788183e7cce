"""The energy of SphereFace+, between a batch's classifiers and the others; three losses have this name."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sfplus.hypersphere.collectives import whole
from sfplus.hypersphere.energy import directions
from sfplus.hypersphere.riesz_kernel import Kernel

ClassEnergyMode = Literal["paper", "batch", "caffe"]


def class_energy(
    weight: Tensor, labels: Tensor, power: float = 2.0, mode: ClassEnergyMode = "paper", alpha: float = 1.0
) -> Tensor:
    """Return the SphereFace+ energy of a batch, to be added to the loss of any head.

    Three different losses are known as the MHE of SphereFace+:

    - `paper`: `1 / (m (C - 1)) * sum_i sum_{j != y_i} f_s(||w_{y_i} - w_j||)`, the classifiers of the batch's labels
      against those of all other classes, i over the m labels with repetitions (MHE paper, sections 3.6 and 5.2).
      Independent random classifiers in many dimensions give -ln(2)/2, 1/sqrt(2) and 1/2 for s = 0, 1 and 2.
    - `batch`: the mean of angle^-s over the pairs of the distinct labels of the batch (OpenSphere,
      model/head/spherefaceplus.py of 2022, with s = 2 and a weight of 0.1 or 1). Other classes have no influence; a
      batch of one person has no pair and energy 0. Cosines are clamped to +-(1 - 1e-5) before the arc cosine, as in
      that code.
    - `caffe`: the intention of the released layer (inter_class_layer.cpp, type AMONG). Its value is
      `D = 1/C sum_j sum_i ||w_j - w_{y_i}||^2`, a monitor that should grow; its gradient is not that of D but
      `-4 alpha / (m D^2 + 1e-5) * (w_{y_i} - mu)`, added to the classifier of each sample, with mu the mean
      classifier at norm 1: a push away from the mean direction. It is the gradient of `weight` itself, not through
      the normalisation of its rows, which Caffe keeps at norm 1. `power` has no effect.

    The CUDA code that trained the published models computes none of these: it sums without atomics and never clears
    its mean, so that D and the push depended on lost updates. In exact arithmetic the published alpha = 10 gives
    gradients of 1e-6 at batch 256 and 10,572 classes, far below the weight decay: no effect. The race is not
    reproduced, and alpha is no guide to the weight of `paper` or `batch`, which needs its own tuning.

    Values and gradients of `paper` and `batch` are exact and twice differentiable, except for the floor of `Kernel`
    (equal classifiers: finite, no gradient); `caffe` is once differentiable. Memory is that of (M, C) matrices, or of
    (C, C) for batches of more than C labels; on a CPU a repeated label is computed once. The program never waits for a
    GPU. Under autocast the computation stays in float32. A sharded weight (DTensor, from `fully_shard`) is gathered;
    its gradient is that of the mean over ranks of the energies.

    Args:
        weight: Classifiers (C, d), floating, C >= 2, not necessarily of unit norm.
        labels: Class of each sample (M,), integers in [0, C), M >= 1. On a GPU a label out of range is an assertion
            in the kernel, as in torch's own indexing.
        power: Power s >= 0; the paper uses 0, 1 and 2.
        mode: One of the three losses.
        alpha: Factor of the gradient of `caffe`; 5.3, 6, 2.3 and 10 in the prototxts of m = 1 to 4.

    Returns:
        A scalar, float32 or the dtype of `weight` if that is wider.

    Raises:
        ValueError: If there are fewer than two classes, no label, a wrong shape, a negative label or power, or the
            mode is unknown.
    """
    if weight.ndim != 2 or labels.ndim != 1:
        raise ValueError(f"weight must be (C, d) and labels (M,), not {tuple(weight.shape)} and {tuple(labels.shape)}")
    if len(weight) < 2 or len(labels) == 0:
        raise ValueError(f"an energy needs at least two classes and one label, not {len(weight)} and {len(labels)}")
    if mode not in ("paper", "batch", "caffe"):
        raise ValueError(f"the mode must be paper, batch or caffe, not '{mode}'")
    kernel, labels = Kernel(float(power), "geodesic" if mode == "batch" else "euclidean"), labels.long()
    if _reads_labels(labels) and int(labels.min()) < 0:
        raise ValueError("labels must not be negative")
    weight = whole(weight, averaged=True)
    with torch.autocast(weight.device.type, enabled=False):
        unit = directions(weight)
        if mode == "caffe":
            energy: Tensor = _CaffeInterClass.apply(weight, unit.detach(), labels, alpha)
            return energy
        anchors, counts = distinct(labels, len(unit))
        rows = F.embedding(anchors, unit)
        if mode == "batch":
            return between(rows, counts, kernel)
        pairs = kernel.value(rows @ unit.T).scatter(1, anchors[:, None], 0.0)
        total: Tensor = (pairs.sum(1) * counts).sum()
        return total / (len(labels) * (len(unit) - 1))


def distinct(labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return classes that include all labels (M,), and how many of the labels each has, 0 for one that is repeated.

    On a CPU these are the distinct labels. Their number is not known to a program that does not wait for a GPU: there
    they are all labels, with the count at the first of equal ones, or all classes if these are fewer.

    Returns:
        Classes (U,) int64 and counts (U,) int64.
    """
    if _reads_labels(labels):
        anchors, counts = torch.unique(labels, return_counts=True)
        return anchors, counts
    if len(labels) > classes:
        counts = labels.new_zeros(classes).scatter_add_(0, labels, torch.ones_like(labels))
        return torch.arange(classes, device=labels.device), counts
    is_equal = labels[:, None] == labels
    return labels, is_equal.sum(1).masked_fill(is_equal.tril(-1).any(1), 0)


def between(unit: Tensor, counts: Tensor, kernel: Kernel) -> Tensor:
    """Return the mode `batch` for directions (U, d), of which those with a count of 0 (see `distinct`) are left out."""
    limit = 1 - 1e-5  # OpenSphere's clamp
    is_present = counts > 0
    pairs = kernel.value((unit @ unit.T).clamp(-limit, limit)).triu(1)
    total: Tensor = pairs.masked_fill(~(is_present[:, None] & is_present), 0).sum()
    count = is_present.sum().to(total.dtype)
    return total / (count * (count - 1) / 2).clamp_min(1)


def _reads_labels(labels: Tensor) -> bool:
    """Return True if reading values costs nothing: neither the program nor torch.compile has to stop for it."""
    return labels.device.type == "cpu" and not torch.compiler.is_compiling()


class _CaffeInterClass(torch.autograd.Function):
    """The value of inter_class_layer.cpp and its gradient, which is not the derivative of the value."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, unit: Tensor, labels: Tensor, alpha: float) -> Tensor:
        # 1/C sum_j sum_i ||w_j - w_i||^2 from the sums alone, since all norms are 1
        total = 2 * len(labels) - 2 * (unit.mean(0) * F.embedding(labels, unit).sum(0)).sum()
        ctx.save_for_backward(unit, labels, total)
        ctx.alpha, ctx.dtype = alpha, weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_total: Tensor) -> tuple[Tensor, None, None, None]:
        unit, labels, total = ctx.saved_tensors
        mean = unit.mean(0)
        mean = mean / (mean.square().sum() + 1e-5).sqrt()
        push = -4 * ctx.alpha / (len(labels) * total.square() + 1e-5) * by_total
        gradient = torch.zeros_like(unit).index_add_(0, labels, (F.embedding(labels, unit) - mean) * push)
        return gradient.to(ctx.dtype), None, None, None
