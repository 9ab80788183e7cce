"""Projections of CoMHE: directions are spread apart in few dimensions, where they are seen better.

A projection belongs to neurons of one size d. Called with them, (N, d), it gives what the energy is taken of,
(sets, N, p); `step`, once per training step and before the loss, moves or redraws it. `RandomProjection` and
`GroupProjection` are linear maps; the other two are unrolled: what is applied is one step of their own objective
ahead, and the gradient of the energy goes through that step (CoMHE paper, section 4; rmlin/CoMHE, architecture.py).
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sfplus.hypersphere.energy import directions, hyperspherical_energy
from sfplus.hypersphere.riesz_kernel import wide_dtype

_DECAY = 1e-3 * 5e-4  # of learned projections: their factor of the network's weight decay (train.py)


class Projection(nn.Module, abc.ABC):
    """What all projections have in common.

    Args:
        size: d, the size of a neuron.
        dim: p, the size of a projected neuron.
        count: number of projections at once.
        seed: of the matrix (count, dim, size), whose entries are N(0, 1); the same on every process.

    Attributes:
        dim: p; neurons that are no larger are better left as they are.
        stream: tells projections of one seed apart; `HypersphericalEnergy` numbers its layers with it.
        steps: how often `step` was called; saved, so that a resumed run draws what an uninterrupted one does.
    """

    matrix: Tensor
    steps: Tensor

    def __init__(self, size: int, dim: int, count: int, seed: int) -> None:
        super().__init__()
        if min(size, dim, count) < 1:
            raise ValueError(f"size, dim and count of a projection are 1 or more, not {size}, {dim} and {count}")
        self.size, self.dim, self.count, self.seed, self.stream = size, dim, count, seed, 0
        self.register_buffer("steps", torch.tensor(0, dtype=torch.int64))

    def extra_repr(self) -> str:
        """What `print(projection)` shows."""
        return f"{self.size} -> {self.dim}, count={self.count}"

    def restart(self, stream: int) -> None:
        """Begin anew with another stream of random numbers."""
        self.stream = stream

    @abc.abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """Neurons (N, d) to (sets, N, p), of any norm."""

    @abc.abstractmethod
    def step(self, weight: Tensor, lr: float) -> None:
        """Prepare the next training step, given the neurons (N, d) as they stand and the network's learning rate."""

    def _draw(self, step: int, device: torch.device | str = "cpu") -> Tensor:
        key = hash((self.seed, self.stream, step)) % 2**63  # of integers: the same in every process
        generator = torch.Generator(device).manual_seed(key)
        return torch.randn(self.count, self.dim, self.size, generator=generator, device=device)


class RandomProjection(Projection):
    """Random projections, redrawn at every step (CoMHE paper, section 4.1); defaults: random_projection/train.py.

    Two layers whose neurons have one size may share an instance, and so the drawing (shared basis, section 4.4). The
    matrices are drawn where the weights are, so that CPU and GPU draw different ones; they are no part of the state,
    which is `steps`.
    """

    def __init__(self, size: int, dim: int = 40, count: int = 20, seed: int = 345) -> None:
        super().__init__(size, dim, count, seed)
        self._done = 0  # steps, without asking a GPU
        self.matrix = self._draw(0)

    def restart(self, stream: int) -> None:
        """Begin anew with another stream of random numbers."""
        super().restart(stream)
        self.matrix = self._draw(self._done)

    def forward(self, weight: Tensor) -> Tensor:
        """Neurons (N, d) to (count, N, dim)."""
        projected: Tensor = _Product.apply(weight, self.matrix.to(weight).flatten(0, 1))
        return projected.view(-1, self.count, self.dim).transpose(0, 1)

    def step(self, weight: Tensor, lr: float) -> None:
        """Draw anew: a function of seed, stream, number of steps and kind of device."""
        self.steps += 1
        self._done += 1
        self.matrix = self._draw(self._done, weight.device)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *others)
        self._done = int(self.steps)
        self.matrix = self._draw(self._done, self.matrix.device)


class _Product(torch.autograd.Function):
    """weight @ matrix.T by the fastest product of float32 at hand: random matrices bear the rounding of their entries.

    On a GPU TF32 is used. On a CPU oneDNN is allowed to round to bfloat16, which it does where there are tiles for it;
    elsewhere it is in full float32, and faster than the default on some processors.
    """

    @staticmethod
    def forward(weight: Tensor, matrix: Tensor) -> Tensor:
        with _rounded(weight):
            return weight @ matrix.T

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (matrix,) = ctx.saved_tensors
        with _rounded(gradient):
            return gradient @ matrix, None


@contextlib.contextmanager
def _rounded(values: Tensor) -> Iterator[None]:
    backend: Any = torch.backends.cuda if values.is_cuda else torch.backends.mkldnn
    before = backend.matmul.fp32_precision
    backend.matmul.fp32_precision = "tf32" if values.is_cuda else "bf16"
    try:
        yield
    finally:
        backend.matmul.fp32_precision = before


class _LearnedProjection(Projection):
    """A matrix that descends an objective of its own by plain gradient steps at the network's learning rate.

    The gradient of a gradient that this takes is not there under torch.compile.
    """

    lr: Tensor

    def __init__(self, size: int, dim: int, seed: int, iterations: int, lr: float) -> None:
        super().__init__(size, dim, 1, seed)
        self.iterations = iterations
        self.register_buffer("lr", torch.tensor(lr, dtype=torch.float32))
        self.register_buffer("matrix", self._draw(0))

    def restart(self, stream: int) -> None:
        """Begin anew with another stream of random numbers."""
        super().restart(stream)
        self.matrix.copy_(self._draw(0))

    @abc.abstractmethod
    def objective(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """What the matrix (1, dim, d) is to make small for neurons (N, d): a scalar."""

    def forward(self, weight: Tensor) -> Tensor:
        """Neurons (N, d) to (1, N, dim), by the matrix one step ahead; differentiable through that step."""
        slope = self._slope(weight, unroll=torch.is_grad_enabled() and weight.requires_grad)
        projected: Tensor = weight @ (self.matrix.to(weight) - self.lr.to(weight) * slope).to(weight.dtype).mT
        return projected

    def step(self, weight: Tensor, lr: float) -> None:
        """Take `iterations` gradient steps with a little weight decay."""
        self.steps += 1
        self.lr.fill_(lr)
        for _ in range(self.iterations):
            slope = self._slope(weight.detach()).to(self.matrix)
            self.matrix.sub_(slope + _DECAY * self.matrix, alpha=lr)

    def _slope(self, weight: Tensor, unroll: bool = False) -> Tensor:
        with torch.enable_grad():
            matrix = self.matrix.to(weight.device, wide_dtype(weight), copy=True).requires_grad_()
            return torch.autograd.grad(self.objective(matrix, weight), matrix, create_graph=unroll)[0]


class AngleProjection(_LearnedProjection):
    """A projection that keeps the angles between the neurons (CoMHE paper, section 4.2).

    Its objective is `|| cos(P W) - cos(W) ||`, the Frobenius norm over all pairs. Defaults:
    angle_projection/train.py; the learning rate is that of the network, so tell `step`.
    """

    def __init__(self, size: int, dim: int = 30, iterations: int = 1, seed: int = 345, lr: float = 0.1) -> None:
        super().__init__(size, dim, seed, iterations, lr)

    def objective(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """The Frobenius norm of the change of cosines."""
        seen, true = directions(weight @ matrix[0].T), directions(weight)
        difference = seen @ seen.T - true @ true.T
        return (difference.square().sum() + 1e-12).sqrt()  # neurons of zeros change nothing: the root has a slope


class AdversarialProjection(_LearnedProjection):
    """A projection in which the neurons look worst: it climbs their energy (CoMHE paper, section 4.3).

    Its objective is minus the full-space energy with s = 2 of the projected neurons. Defaults:
    adversarial_projection/train.py; the learning rate is that of the network, so tell `step`.
    """

    def __init__(self, size: int, dim: int = 30, iterations: int = 10, seed: int = 3456, lr: float = 0.1) -> None:
        super().__init__(size, dim, seed, iterations, lr)

    def objective(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """Minus the energy of the projected neurons."""
        return -hyperspherical_energy(weight @ matrix[0].T, 2.0)


class GroupProjection(Projection):
    """Parts of each neuron, as in group convolution: the energy is taken within each part (CoMHE paper, section 4.4).

    Args:
        size: d; flattened filters (Cin, k, k) fall into groups of channels where `groups` divides Cin.
        groups: number of parts, or fewer where parts of one size do not come out even; the last is filled up with
            zeros, which change no cosine.
        random: choose the members of each part at random, once, instead of in order.
        seed: of that choice.
    """

    order: Tensor

    def __init__(self, size: int, groups: int = 8, random: bool = False, seed: int = 345) -> None:
        if not 1 <= groups <= size:
            raise ValueError(f"the groups of neurons of size {size} are 1 to {size}, not {groups}")
        dim = -(-size // groups)
        super().__init__(size, dim, -(-size // dim), seed)
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed)) if random else torch.arange(size)
        self.register_buffer("order", order)

    def forward(self, weight: Tensor) -> Tensor:
        """Neurons (N, d) to (groups, N, d / groups)."""
        parts = weight[:, self.order]
        parts = nn.functional.pad(parts, (0, self.count * self.dim - self.size))
        return parts.view(-1, self.count, self.dim).transpose(0, 1)

    def step(self, weight: Tensor, lr: float) -> None:
        """Nothing moves."""
