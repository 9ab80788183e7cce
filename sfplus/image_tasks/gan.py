"""The generative adversarial networks of MHE-GAN, for images of 32x32 pixels (MHE, MHE-GAN/*/net.py)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

from sfplus.hypersphere.energy import directions, pair_energy

NOISE_SIZE = 128
SIDE = 32
_EPSILON = 1e-4  # of squared norms and of squared distances (MHE-GAN, libs/ops.py)


class Generator(nn.Module):
    """The generator of MHE-GAN: noise (N, noise_size) -> images (N, 3, 32, 32) in [-1, 1].

    A linear layer without bias to 512 maps of 4x4, three transposed convolutions 4x4 of stride 2 to 256, 128 and 64
    maps, each with batch normalisation and ReLU, and one of 3x3 with tanh. Weights are initialised from a normal
    distribution of standard deviation 0.02 truncated at two deviations, biases with 0. Names are those of the original.

    Args:
        width: multiplier of the numbers of maps.
        noise_size: length of a noise vector, whose elements are N(0, 1).
    """

    def __init__(self, width: float = 1.0, noise_size: int = NOISE_SIZE) -> None:
        super().__init__()
        first, *later = (_maps(count, width) for count in (512, 256, 128, 64))
        self.noise_size = noise_size
        self.l0 = nn.Linear(noise_size, first * 4 * 4, bias=False)
        self.bn0: nn.Module = _norm(nn.BatchNorm1d, first * 4 * 4)
        before = first
        for stage, maps in enumerate(later, start=1):
            self.add_module(f"dc{stage}", nn.ConvTranspose2d(before, maps, 4, stride=2, padding=1))
            self.add_module(f"bn{stage}", _norm(nn.BatchNorm2d, maps))
            before = maps
        self.dc4 = nn.ConvTranspose2d(before, 3, 3, padding=1)
        _initialise(self)

    def forward(self, noise: Tensor) -> Tensor:
        """Generate images from noise."""
        x = F.relu(self.bn0(self.l0(noise))).reshape(len(noise), -1, 4, 4)
        for stage in (1, 2, 3):
            x = F.relu(self.get_submodule(f"bn{stage}")(self.get_submodule(f"dc{stage}")(x)))
        return torch.tanh(self.dc4(x))


class Discriminator(nn.Module):
    """The discriminator of SN-GAN: images (N, 3, 32, 32) in [-1, 1] -> logits of being real (N,).

    Seven convolutions of 64 to 512 filters, alternately 3x3 of stride 1 and 4x4 of stride 2, each with leaky ReLU
    (0.1), and a linear layer without bias. There is no batch normalisation. Weights are initialised as in `Generator`.

    With `spectral_norm` the weight of each layer is divided by an estimate of its largest singular value. Each forward
    pass in training mode performs one step of the power method, in evaluation mode none. In an update of the
    discriminator the original updates the estimate in the pass of generated images and not in that of real ones
    (libs/sn.py); this class computes both in one batch. Unlike in the original, the estimate is initialised by 15
    steps, and no gradient flows through its singular vectors, as in SN-GAN; once they have converged, this is the same.

    Args:
        width: multiplier of the numbers of filters.
        spectral_norm: apply spectral normalisation.
    """

    layers = (("c0_0", 64), ("c0_1", 128), ("c1_0", 128), ("c1_1", 256), ("c2_0", 256), ("c2_1", 512), ("c3_0", 512))

    def __init__(self, width: float = 1.0, spectral_norm: bool = False) -> None:
        super().__init__()
        before = 3
        for name, count in self.layers:
            size, stride = (4, 2) if name.endswith("1") else (3, 1)
            self.add_module(name, nn.Conv2d(before, _maps(count, width), size, stride, padding=1))
            before = _maps(count, width)
        self.l4 = nn.Linear(before * 4 * 4, 1, bias=False)
        _initialise(self)
        if spectral_norm:
            _normalise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N,) of images."""
        x = images
        for name, _ in self.layers:
            x = F.leaky_relu(self.get_submodule(name)(x), 0.1)
        logits: Tensor = self.l4(x.flatten(1)).flatten()
        return logits

    def neurons(self) -> dict[str, Tensor]:
        """Return the filters (N, d) of each layer as they are trained, before spectral normalisation."""
        filters = {}
        for name, module in self.named_children():
            weight = module.parametrizations.weight.original if is_parametrized(module) else module.weight  # type: ignore[union-attr]
            filters[name] = weight.flatten(1)  # type: ignore[operator]
        return filters


def log_energy(filters: Tensor) -> Tensor:
    """Return the energy that MHE-GAN minimises in a layer, with all its constants (MHE-GAN, libs/ops.py).

    It is the mean of -log(m_ij + 1e-4) over all N^2 entries of a matrix with the squared distances of unit filters
    above its diagonal and zeros elsewhere. Apart from the 1e-4, this is (N - 1)/N times the mean of
    `hyperspherical_energy` with s = 0, plus a constant, (N + 1)/(2N) log(10^4). A filter w is represented by (w, -w),
    a vector of twice the size, with the norm sqrt(||(w, -w)||^2 + 1e-4). This changes no angle: the energy is
    full-space.

    Args:
        filters: (N, d) floating, of any norm; the energy of a single filter is the constant, without gradient.

    Returns:
        A scalar, float32, or float64 if `filters` is float64.
    """
    count = len(filters)
    pairs = count * (count - 1) / 2
    # log(2 - 2c + e) = log(2 - 2c/k) + log(k) with k = 1 + e/2
    unit = directions(filters * math.sqrt(2), "tf1") / math.sqrt(1 + _EPSILON / 2)
    needs_gradient = torch.is_grad_enabled() and unit.requires_grad
    total: Tensor = pair_energy(unit[None], 0.0, "euclidean", False, "tf1", needs_gradient)[0].squeeze(0)
    constant = (pairs + count) * math.log(1 / _EPSILON) - pairs * math.log1p(_EPSILON / 2)
    return (total + constant) / count**2


def _maps(count: int, width: float) -> int:
    return max(1, round(count * width))


def _norm(kind: type[nn.Module], size: int) -> nn.Module:
    return kind(size, eps=2e-5, momentum=0.1)  # decay 0.9 in TensorFlow


def _initialise(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif not name.startswith("bn"):
            nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)


def _normalise(discriminator: Discriminator) -> None:
    for layer in discriminator.children():
        spectral_norm(layer)
