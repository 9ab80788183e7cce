"""What an energy is to be measured by: that of random directions, and the least that N directions can have."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sfplus.hypersphere.riesz_kernel import Kernel

_NODES = 30  # of the quadrature at most: more gain nothing in float64


def random_energy(count: int, dimension: int, power: float, half_space: bool = False) -> float:
    """The expected mean energy of independent uniform directions, as `hyperspherical_energy` defines it (euclidean).

    In closed form: a squared chord is 4t with t of the distribution Beta(a, a), a = (d - 1)/2.

    Args:
        count: N >= 2.
        dimension: d >= 1.
        power: s >= 0.
        half_space: of the 2N directions and opposites.

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
    """A lower bound of the mean energy of N directions in R^d (euclidean), often the least itself.

    The universal lower bound of Boyvalenkov, Dragnev, Hardin, Saff and Stoyanova (2016) with an odd number of
    moments: the energy that directions would have whose cosines lie at the k nodes of a Gauss quadrature that
    integrates polynomials up to degree 2k - 1 over the sphere without one of its N points. It is reached by the
    simplex (N <= d + 1), the cross-polytope (N = 2d), the regular polygons of even N, the icosahedron and other
    designs, and is close to the least for large N.

    Args:
        count: N >= 2.
        dimension: d >= 1.
        power: s >= 0.
        half_space: of the 2N directions and opposites.
    """
    count = 2 * count if half_space else count
    nodes = 1
    while dimension > 1 and nodes < _NODES and 2 * math.comb(dimension + nodes - 1, nodes) <= count:
        nodes += 1
    cosines, weights = _quadrature(count, dimension, nodes)
    return float((Kernel(float(power)).value(cosines) * weights).sum()) * count / (count - 1)


def _quadrature(count: int, dimension: int, nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the Gauss rule for the cosine of uniform directions less a mass 1/N at 1 (Golub, Welsch).

    The rule is the eigenproblem of multiplication by t, compressed to polynomials of degree below k, which are
    written in the orthonormal Gegenbauer polynomials p_i; t p_i = b_(i+1) p_(i+1) + b_i p_(i-1) and p_i(1) suffice.
    """
    i = torch.arange(2, nodes + 1, dtype=torch.float64)
    square = i * (i + dimension - 3) / ((2 * i + dimension - 2) * (2 * i + dimension - 4))
    off = torch.cat([torch.tensor([1 / dimension], dtype=torch.float64), square]).sqrt()
    at_one = torch.ones(nodes, dtype=torch.float64)
    for k in range(1, nodes):
        before = off[k - 2] * at_one[k - 2] if k > 1 else 0.0
        at_one[k] = (at_one[k - 1] - before) / off[k - 1]
    moved = torch.diag(off[: nodes - 1], 1) + torch.diag(off[: nodes - 1], -1) - torch.outer(at_one, at_one) / count
    gram = torch.eye(nodes, dtype=torch.float64) - torch.outer(at_one, at_one) / count
    root = torch.linalg.cholesky(gram)
    half = torch.linalg.solve_triangular(root, moved, upper=False)
    cosines, vectors = torch.linalg.eigh(torch.linalg.solve_triangular(root, half.T, upper=False))
    return cosines, (root[0] @ vectors).square()
