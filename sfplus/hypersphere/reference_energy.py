"""Reference values of the energy of N directions: its expectation at random, and a lower bound."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sfplus.hypersphere.riesz_kernel import Kernel

_MAX_NODES = 30  # of the quadrature: more do not improve the bound in float64


def random_energy(count: int, dimension: int, power: float, half_space: bool = False) -> float:
    """Return the expected mean energy of independent uniform directions (see `hyperspherical_energy`; euclidean).

    In closed form: a squared chord is 4t with t of the distribution Beta(a, a), a = (d - 1)/2.

    Args:
        count: Number N >= 2 of directions.
        dimension: Dimension d >= 1.
        power: Power s >= 0.
        half_space: Count the opposites too, 2N directions.

    Returns:
        The expectation; infinite for s >= d - 1.
    """
    a, s = (dimension - 1) / 2, power / 2
    if s >= a:
        return math.inf
    if power == 0:
        beta = torch.tensor([a, 2 * a], dtype=torch.float64).digamma()
        value = -0.5 * (math.log(4) + float(beta[0] - beta[1]))
    else:
        value = 4**-s * math.exp(math.lgamma(a - s) + math.lgamma(2 * a) - math.lgamma(a) - math.lgamma(2 * a - s))
    if not half_space:
        return value
    opposite = -math.log(2) if power == 0 else 2.0**-power
    return (2 * (count - 1) * value + opposite) / (2 * count - 1)


def least_energy(count: int, dimension: int, power: float, half_space: bool = False) -> float:
    """Return a lower bound of the mean energy of N directions in R^d (euclidean), often the minimum itself.

    The universal lower bound of Boyvalenkov, Dragnev, Hardin, Saff and Stoyanova (2016) with an odd number of
    moments: the energy of hypothetical directions whose cosines are the k nodes of a Gauss quadrature that
    integrates polynomials up to degree 2k - 1 over the sphere without one of its N points. It is attained by the
    simplex (N <= d + 1), the cross-polytope (N = 2d), the regular polygons of even N, the icosahedron and other
    designs, and is close to the minimum for large N.

    Args:
        count: Number N >= 2 of directions.
        dimension: Dimension d >= 1.
        power: Power s >= 0.
        half_space: Count the opposites too, 2N directions.
    """
    count = 2 * count if half_space else count
    nodes = 1
    while dimension > 1 and nodes < _MAX_NODES and 2 * math.comb(dimension + nodes - 1, nodes) <= count:
        nodes += 1
    cosines, weights = _quadrature(count, dimension, nodes)
    return float((Kernel(float(power)).value(cosines) * weights).sum()) * count / (count - 1)


def _quadrature(count: int, dimension: int, nodes: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of the Gauss rule for the cosine of uniform directions less a mass 1/N at 1.

    The rule (Golub, Welsch) is the eigenproblem of multiplication by t, compressed to polynomials of degree below k,
    in the basis of orthonormal Gegenbauer polynomials p_i; t p_i = b_(i+1) p_(i+1) + b_i p_(i-1) and p_i(1) suffice.
    """
    i = torch.arange(2, nodes + 1, dtype=torch.float64)
    square = i * (i + dimension - 3) / ((2 * i + dimension - 2) * (2 * i + dimension - 4))
    b = torch.cat([torch.tensor([1 / dimension], dtype=torch.float64), square]).sqrt()
    at_one = torch.ones(nodes, dtype=torch.float64)
    for k in range(1, nodes):
        previous = b[k - 2] * at_one[k - 2] if k > 1 else 0.0
        at_one[k] = (at_one[k - 1] - previous) / b[k - 1]
    mass = torch.outer(at_one, at_one) / count
    times_t = torch.diag(b[: nodes - 1], 1) + torch.diag(b[: nodes - 1], -1) - mass
    root = torch.linalg.cholesky(torch.eye(nodes, dtype=torch.float64) - mass)
    half = torch.linalg.solve_triangular(root, times_t, upper=False)
    cosines, vectors = torch.linalg.eigh(torch.linalg.solve_triangular(root, half.T, upper=False))
    return cosines, (root[0] @ vectors).square()
