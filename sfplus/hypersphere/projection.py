"""Projections of CoMHE, which measure the energy of neurons in few dimensions.

A projection is created for neurons of one size d. It maps neurons (N, d) to projected neurons (sets, N, p), of which
the energy is computed; `step`, once per training step and before the loss, trains or redraws it. `RandomProjection`
and `GroupProjection` are linear maps; the other two are unrolled: they apply the matrix after one more step of their
objective, and the gradient of the energy passes through that step (CoMHE paper, section 4; rmlin/CoMHE,
architecture.py).
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

_DECAY = 1e-3 * 5e-4  # weight decay of learned projections, a fraction of the network's (train.py)

_MULTIPLIES_BFLOAT16 = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
"""True if the processor has instructions for bfloat16; torch 2.10 has no public name for this."""


class Projection(nn.Module, abc.ABC):
    """The base class of projections.

    Args:
        size: Size d of a neuron.
        dim: Size p of a projected neuron.
        count: Number of projections at once.
        seed: Seed of the matrix (count, dim, size), whose entries are N(0, 1); the same on every process.

    Attributes:
        dim: Size p; neurons of at most this size are better not projected.
        stream: Number of the random stream of this projection; `HypersphericalEnergy` gives each layer its own.
        steps: Number of calls of `step`; saved, so that a resumed run draws the same matrices as an uninterrupted one.
    """

    matrix: Tensor
    steps: Tensor

    def __init__(self, size: int, dim: int, count: int, seed: int) -> None:
        super().__init__()
        if min(size, dim, count) < 1:
            raise ValueError(f"size, dim and count of a projection must be 1 or more, not {size}, {dim} and {count}")
        self.size, self.dim, self.count, self.seed, self.stream = size, dim, count, seed, 0
        self.register_buffer("steps", torch.tensor(0, dtype=torch.int64))

    def extra_repr(self) -> str:
        """Return the sizes that `print(projection)` shows."""
        return f"{self.size} -> {self.dim}, count={self.count}"

    def restart(self, stream: int) -> None:
        """Start again with another stream of random numbers."""
        self.stream = stream

    @abc.abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """Project neurons (N, d) of any norm to (sets, N, p)."""

    @abc.abstractmethod
    def step(self, weight: Tensor, lr: float) -> None:
        """Prepare the next training step from the current neurons (N, d) and the network's learning rate."""

    def _draw(self, step: int, device: torch.device | str = "cpu") -> Tensor:
        key = hash((self.seed, self.stream, step)) % 2**63  # a hash of integers is the same in every process
        generator = torch.Generator(device).manual_seed(key)
        return torch.randn(self.count, self.dim, self.size, generator=generator, device=device)


class RandomProjection(Projection):
    """Random projections, redrawn at every step (CoMHE paper, section 4.1); defaults: random_projection/train.py.

    Two layers whose neurons have the same size may share an instance and its matrices (shared basis, section 4.4).
    The matrices are drawn on the device of the weights, so those of CPU and GPU differ; they are not part of the
    state, which is `steps`.
    """

    def __init__(self, size: int, dim: int = 40, count: int = 20, seed: int = 345) -> None:
        super().__init__(size, dim, count, seed)
        self._step = 0  # `steps` as a number, which does not wait for a GPU
        self.matrix = self._draw(0)

    def restart(self, stream: int) -> None:
        """Start again with another stream of random numbers."""
        super().restart(stream)
        self.matrix = self._draw(self._step)

    def forward(self, weight: Tensor) -> Tensor:
        """Project neurons (N, d) to (count, N, dim)."""
        is_rounded = _MULTIPLIES_BFLOAT16 and weight.device.type == "cpu" and weight.dtype == torch.float32
        matrix = self.matrix.to(weight.device, torch.bfloat16 if is_rounded else weight.dtype).flatten(0, 1)
        # torch.compile cannot look into the settings of precision: it uses the program's
        product = _multiply if torch.compiler.is_compiling() else _Product.apply
        projected: Tensor = product(weight, matrix)
        return projected.view(-1, self.count, self.dim).transpose(0, 1)

    def step(self, weight: Tensor, lr: float) -> None:
        """Redraw the matrices from seed, stream, number of steps and type of device."""
        self.steps += 1
        self._step += 1
        self.matrix = self._draw(self._step, weight.device)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        self._step = int(self.steps)
        self.matrix = self._draw(self._step, self.matrix.device)


class _Product(torch.autograd.Function):
    """Compute weight @ matrix.T by the fastest float32 product; rounding the entries of a random matrix is harmless.

    On a GPU this is TF32, and bfloat16 on processors that multiply it at twice the rate or more: then `matrix` is
    bfloat16, and results and gradients are rounded to it. On other processors oneDNN computes in full float32, on some
    of them faster than the default.
    """

    @staticmethod
    def forward(weight: Tensor, matrix: Tensor) -> Tensor:
        with _fast_products(weight):
            return _multiply(weight, matrix)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (matrix,) = ctx.saved_tensors
        with _fast_products(gradient):
            return (gradient.to(matrix.dtype) @ matrix).to(gradient.dtype), None


def _multiply(weight: Tensor, matrix: Tensor) -> Tensor:
    return (weight.to(matrix.dtype) @ matrix.T).to(weight.dtype)


@contextlib.contextmanager
def _fast_products(values: Tensor) -> Iterator[None]:
    backend: Any = torch.backends.cuda if values.is_cuda else torch.backends.mkldnn
    previous = backend.matmul.fp32_precision
    backend.matmul.fp32_precision = "tf32" if values.is_cuda else "bf16"
    try:
        yield
    finally:
        backend.matmul.fp32_precision = previous


class _LearnedProjection(Projection):
    """A matrix that minimises an objective by plain gradient steps at the network's learning rate.

    It needs the gradient of a gradient, which torch.compile does not support.
    """

    lr: Tensor

    def __init__(self, size: int, dim: int, seed: int, iterations: int, lr: float) -> None:
        super().__init__(size, dim, 1, seed)
        self.iterations = iterations
        self.register_buffer("lr", torch.tensor(lr, dtype=torch.float32))
        self.register_buffer("matrix", self._draw(0))

    def restart(self, stream: int) -> None:
        """Start again with another stream of random numbers."""
        super().restart(stream)
        self.matrix.copy_(self._draw(0))

    @abc.abstractmethod
    def objective(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """Return the scalar that the matrix (1, dim, d) minimises for neurons (N, d)."""

    def forward(self, weight: Tensor) -> Tensor:
        """Project neurons (N, d) to (1, N, dim) by the matrix after one more step; differentiable through that step."""
        slope = self._slope(weight, unroll=torch.is_grad_enabled() and weight.requires_grad)
        projected: Tensor = weight @ (self.matrix.to(weight) - self.lr.to(weight) * slope).to(weight.dtype).mT
        return projected

    def step(self, weight: Tensor, lr: float) -> None:
        """Take `iterations` gradient steps with a small weight decay."""
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
    angle_projection/train.py; the learning rate is that of the network, which `step` receives.
    """

    def __init__(self, size: int, dim: int = 30, iterations: int = 1, seed: int = 345, lr: float = 0.1) -> None:
        super().__init__(size, dim, seed, iterations, lr)

    def objective(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """Return the Frobenius norm of the change of cosines."""
        projected, original = directions(weight @ matrix[0].T), directions(weight)
        difference = projected @ projected.T - original @ original.T
        return (difference.square().sum() + 1e-12).sqrt()  # a finite slope where all neurons are zero


class AdversarialProjection(_LearnedProjection):
    """A projection that maximises the energy of the projected neurons (CoMHE paper, section 4.3).

    Its objective is minus the full-space energy with s = 2 of the projected neurons. Defaults:
    adversarial_projection/train.py; the learning rate is that of the network, which `step` receives.
    """

    def __init__(self, size: int, dim: int = 30, iterations: int = 10, seed: int = 3456, lr: float = 0.1) -> None:
        super().__init__(size, dim, seed, iterations, lr)

    def objective(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """Return minus the energy of the projected neurons."""
        return -hyperspherical_energy(weight @ matrix[0].T, 2.0)


class GroupProjection(Projection):
    """A division of each neuron into parts, as in group convolution (CoMHE paper, section 4.4).

    The energy is computed within each part.

    Args:
        size: Size d; flattened filters (Cin, k, k) are divided by channels if `groups` divides Cin.
        groups: Number of parts, or fewer if parts of equal size cover a neuron earlier; the last part is padded with
            zeros, which change no cosine.
        random: Choose the elements of each part at random, once, instead of in order.
        seed: Seed of that choice.
    """

    order: Tensor

    def __init__(self, size: int, groups: int = 8, random: bool = False, seed: int = 345) -> None:
        if not 1 <= groups <= size:
            raise ValueError(f"neurons of size {size} can have 1 to {size} groups, not {groups}")
        dim = -(-size // groups)
        super().__init__(size, dim, -(-size // dim), seed)
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed)) if random else torch.arange(size)
        self.register_buffer("order", order)

    def forward(self, weight: Tensor) -> Tensor:
        """Divide neurons (N, d) into (groups, N, d / groups)."""
        parts = weight[:, self.order]
        parts = nn.functional.pad(parts, (0, self.count * self.dim - self.size))
        return parts.view(-1, self.count, self.dim).transpose(0, 1)

    def step(self, weight: Tensor, lr: float) -> None:
        """Do nothing: the parts are fixed."""
