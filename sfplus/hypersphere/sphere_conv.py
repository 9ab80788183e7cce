"""Convolution on angles (SphereNet): the layer with learnable rescaling, the classifier, conversion of networks."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfplus.hypersphere.riesz_kernel import wide_dtype
from sfplus.hypersphere.sphere_conv_ops import respond, square_sum

OPERATORS = ("linear", "cosine", "sigmoid", "learnable-sigmoid")
"""The functions g of the angle that `SphereConv2d` supports; all fall from 1 at angle 0 to -1 at pi."""

EPSILON = 1e-4
"""The constant added to the squared norm of a patch and of a filter, before the root (`spherenet.py`)."""

_INITIAL = {"bias": 0.0, "beta": 1.0, "rho": 0.0, "k_raw": 0.7}
_M = TypeVar("_M", bound=nn.Module)


class SphereConv2d(nn.Conv2d):
    """A convolution whose output is a function of the angle between patch and filter (SphereNet paper, section 3).

    c = conv(x, w) / (||x|| ||w||) is the cosine of the angle theta between a filter w and its patch of x, where both
    norms are `sqrt(sum of squares + EPSILON)`; the output is g(theta), without bias:

        linear              1 - 2 theta / pi
        cosine              c
        sigmoid             A (1 - e^z) / (1 + e^z), z = theta / k - pi / (2 k), A = 1 / tanh(pi / (4 k))
        learnable-sigmoid   the same with a k per filter, |k_raw| + 0.05; k_raw starts at 0.7

    A patch of zeros has g = 0. Because rounding can bring c to 1, the operators with an angle clamp it one `finfo.eps`
    of the convolution's dtype away from 1 and -1; clamped values have no gradient, because its direction is undefined
    there. Everywhere else the gradients of first and second order are exact. The norms of the patches are one sum of
    squares over channels and a box sum of that map (per group), with the padding of the convolution.

    With `rescale` the output is beta (||x|| ||w||)^rho g(theta) + gamma, with one learnable number of each per filter.
    beta and gamma (`bias`) are the paper's SphereNorm. rho, which starts at 0, is an addition of this project that
    makes the ordinary convolution a special case: the operator cosine with beta = rho = 1 is `nn.Conv2d`.

    Norms, angles and rescaling are computed in float32, or in float64 for float64 weights; the output has the dtype
    of `nn.Conv2d`, also under autocast. Filters start from N(0, 2 / fan_in), SphereNet's initialisation.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode, device, dtype:
            As for `nn.Conv2d`.
        bias: Learn a number per filter that is added to g; the originals have none without rescaling.
        operator: One of `OPERATORS`; SphereNet-9 uses cosine, SphereResNet-32 linear.
        k: Width of the step of sigmoid; the other operators ignore it.
        rescale: Learn beta, rho and the bias.

    Raises:
        ValueError: If the operator is unknown, k is not positive, or `nn.Conv2d` raises it.
    """

    operator: str
    k: float
    beta: nn.Parameter
    rho: nn.Parameter
    k_raw: nn.Parameter

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = False,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        operator: str = "cosine",
        k: float = 0.3,
        rescale: bool = False,
    ) -> None:
        geometry = kernel_size, stride, padding, dilation
        super().__init__(in_channels, out_channels, *geometry, groups, bias, padding_mode, device, dtype)
        _become_sphere_conv(self, operator, k, rescale)

    def reset_parameters(self) -> None:
        """Redraw the filters and set all other parameters to their initial values."""
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        for name, initial in _INITIAL.items():
            if (parameter := self._parameters.get(name)) is not None:
                nn.init.constant_(parameter, initial)

    def extra_repr(self) -> str:
        """Return the options that `print(layer)` shows."""
        k = f", k={self.k:g}" if self.operator == "sigmoid" else ""
        shape: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{shape}, operator={self.operator}{k}{', rescale' if self.rescale else ''}"

    @property
    def rescale(self) -> bool:
        """True if the layer has SphereNorm."""
        return "beta" in self._parameters

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, C, H, W) or (C, H, W); the output has the shape and dtype of that of `nn.Conv2d`."""
        x, total = square_sum(x, self.groups)
        unit, length = _unit(self.weight)
        projection = self._conv_forward(x, unit, None)
        squared = self._box_sum(total).unsqueeze(-3) + EPSILON
        response = self._respond(projection.unflatten(-3, (self.groups, -1)), squared.rsqrt(), length)
        if self.bias is not None and not self.rescale:
            response = response + self._grouped(self.bias)
        return response.flatten(-4, -3).to(projection.dtype)

    def _grouped(self, per_filter: Tensor) -> Tensor:
        """Reshape a value per filter so that it broadcasts over (..., groups, filters, H, W)."""
        return _wide(per_filter).view(self.groups, -1, 1, 1)

    def _box_sum(self, total: Tensor) -> Tensor:
        """Sum squared norms of pixels (..., groups, H, W) to those of patches (..., groups, H', W')."""
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        total = F.pad(total, self._reversed_padding_repeated_twice, mode)
        for axis, size, step, gap in zip((-2, -1), self.kernel_size, self.stride, self.dilation, strict=True):
            total = total.unfold(axis, gap * (size - 1) + 1, step)[..., ::gap].sum(-1)
        return total

    def _respond(self, projection: Tensor, inverse: Tensor, length: Tensor) -> Tensor:
        """Return the response (..., groups, filters, H, W) without the bias, but with all of a rescaling.

        Args:
            projection: w.x / ||w|| (..., groups, filters, H, W).
            inverse: 1 / ||x|| (..., groups, 1, H, W).
            length: ||w|| (groups * filters,).
        """
        rate = amplitude = None
        if self.operator == "linear":
            rate = inverse.new_full((), 2 / math.pi)
        elif self.operator != "cosine":
            learnable = self.operator == "learnable-sigmoid"
            k = self._grouped(self.k_raw).abs() + 0.05 if learnable else inverse.new_full((), self.k)
            rate, amplitude = 1 / k, 1 / torch.tanh(math.pi / (4 * k))
        if not self.rescale:
            return respond(projection, inverse, rate, amplitude)
        assert self.bias is not None
        rho = self._grouped(self.rho)
        beta = self._grouped(self.beta) * self._grouped(length).pow(rho)
        return respond(projection, inverse, rate, amplitude, beta, rho, self._grouped(self.bias))


class WeightNormLinear(nn.Linear):
    """The classifier of the weight-normalised softmax: logits x.w / ||w||, ||w|| = sqrt(sum of squares + EPSILON).

    Features are not normalised and there is no bias (SphereNet paper, section 3; `w_norm="cosine"` in its code). Maps
    (..., in_features) to (..., out_features); norms are computed in float32 or float64.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias=False, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return F.linear(x, _unit(self.weight)[0])


def to_sphere(
    model: _M, operator: str = "cosine", *, k: float = 0.3, rescale: bool = False, skip: Iterable[str] = ()
) -> _M:
    """Convert every `nn.Conv2d` of a network to a `SphereConv2d`, in place; call it before creating the optimizer.

    The layers stay the same objects with the same parameters, hooks and settings. The bias of a convolution has no
    meaning for an angle: it is removed, except with `rescale`, where it is the initial gamma, so that beta = rho = 1
    with the operator cosine is the original network. Subclasses of `nn.Conv2d` are not converted.

    Args:
        model: Any network, or one convolution.
        operator, k, rescale: As for `SphereConv2d`.
        skip: Dotted names of modules that are not converted, including all submodules, such as
            `("conv1", "layer1.0")`.

    Returns:
        The same model.

    Raises:
        ValueError: If there is nothing to convert, a name in `skip` is unknown, or `SphereConv2d` raises it.
    """
    named = dict(model.named_modules(remove_duplicate=False))
    skipped: set[nn.Module] = set()
    for name in skip:
        if name not in named:
            near = difflib.get_close_matches(name, named, n=3) or [name for name, _ in model.named_children()]
            raise ValueError(f"no module to skip is called '{name}'; the nearest names are {', '.join(near) or 'none'}")
        skipped.update(named[name].modules())
    layers = [layer for layer in model.modules() if type(layer) is nn.Conv2d and layer not in skipped]
    if not layers:
        raise ValueError("the model has no nn.Conv2d to convert")
    for layer in layers:
        _become_sphere_conv(layer, operator, k, rescale)
        if not rescale:
            layer.bias = None
    return model


def _become_sphere_conv(layer: nn.Conv2d, operator: str, k: float, rescale: bool) -> None:
    """Turn a convolution into a `SphereConv2d` with these settings."""
    if operator not in OPERATORS:
        raise ValueError(f"the operator must be one of {', '.join(OPERATORS)}, not {operator!r}")
    if not 0 < k < math.inf:
        raise ValueError(f"k must be a positive number, not {k}")
    layer.__class__ = SphereConv2d
    layer.operator, layer.k = operator, k  # type: ignore[assignment]
    names = ["beta", "rho"] * rescale + ["bias"] * (rescale and layer.bias is None)
    for name in names + ["k_raw"] * (operator == "learnable-sigmoid"):
        setattr(layer, name, nn.Parameter(layer.weight.new_full((layer.out_channels,), _INITIAL[name])))


def _wide(values: Tensor) -> Tensor:
    return values.to(wide_dtype(values))


def _unit(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Normalise rows (n, ...) with EPSILON, and return their lengths (n,) too."""
    length = (_wide(weight).flatten(1).square().sum(1) + EPSILON).sqrt()
    return (weight / length.view(-1, *[1] * (weight.ndim - 1))).to(weight.dtype), length
