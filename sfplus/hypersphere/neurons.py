"""The neurons of a network's layers, as directions on the hypersphere."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import isfunction

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from sfplus.hypersphere.collectives import whole
from sfplus.hypersphere.heads.base import Head
from sfplus.hypersphere.riesz_kernel import wide_dtype

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Layer:
    """A convolution, a linear layer, a head or a projection of attention, whose weight holds one neuron per output.

    Attributes:
        name: The name in `model.named_modules()`; `.q_proj`, `.k_proj` and `.v_proj` of it for attention.
        module: The layer itself; its weight is read at each use.
        parameter: The name of the weight in the module.
        third: The part of the weight that this layer is, 0, 1 or 2; None for all of it.
    """

    name: str
    module: nn.Module
    parameter: str = "weight"
    third: int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (groups, N, d) of the neurons.

        Raises:
            ValueError: If the weight has no shape yet, is packed, or FullyShardedDataParallel holds it in pieces.
        """
        weight = self._check(self.peek())
        groups, rows = getattr(self.module, "groups", 1), len(weight)
        if isinstance(self.module, _ConvTransposeNd):  # stored as (Cin, Cout / groups, ...)
            return groups, weight.shape[1], rows // groups * weight[0, 0].numel()
        return groups, rows // groups // (1 if self.third is None else 3), weight[0].numel()

    def peek(self) -> Tensor:
        """Return the weight without an effect on the layer: in training, `spectral_norm` for example takes a step."""
        computed = getattr(self.module, "parametrizations", {})
        parts = computed[self.parameter].modules() if self.parameter in computed else ()
        modes = {part: part.training for part in parts}
        try:
            for part in modes:
                part.training = False
            weight: Tensor = getattr(self.module, self.parameter)
        finally:
            for part, mode in modes.items():
                part.training = mode
        return weight

    @property
    def is_packed(self) -> bool:
        """True if the weight has one dimension in a format of the layer's own class, and thus no neurons."""
        weight = self.peek()
        return not is_lazy(weight) and weight.ndim < 2 and not _in_pieces(weight)

    def neurons(self, any_order: bool = False) -> Tensor:
        """Return the neurons as vectors (groups, N, d), float32 or wider; neurons of different groups see
        different inputs and are not comparable.

        A weight that `fully_shard` divides among ranks is gathered: all ranks call this method together.

        Args:
            any_order: The order of the d values of a neuron may be that of memory, which saves copies of convolutions
                in channels_last. It is the same for all neurons of the layer.

        Raises:
            ValueError: As `shape`.
        """
        weight = whole(self._check(self._weight()))
        if self.third is not None:
            weight = weight.chunk(3)[self.third]
        weight = weight.reshape(getattr(self.module, "groups", 1), -1, *weight.shape[1:])
        if isinstance(self.module, _ConvTransposeNd):
            weight = weight.transpose(1, 2)
        elif any_order and weight.stride(2) == 1:
            weight = weight.movedim(2, -1)
        return weight.flatten(2).to(wide_dtype(weight))

    def _weight(self) -> Tensor:
        """Return the weight; one that a hook before forward computes is computed now, as its graph may be used up."""
        for hook in self.module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm) and hook.name == self.parameter:
                normalised: Tensor = hook.compute_weight(self.module)
                return normalised
            if isinstance(hook, SpectralNorm) and hook.name == self.parameter:
                spectral: Tensor = hook.compute_weight(self.module, do_power_iteration=False)
                return spectral
            if isinstance(hook, BasePruningMethod) and hook._tensor_name == self.parameter:
                pruned: Tensor = hook.apply_mask(self.module)  # type: ignore[no-untyped-call]
                return pruned
        weight: Tensor = getattr(self.module, self.parameter)
        return weight

    def _check(self, weight: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return weight
        title = self.name or type(self.module).__name__
        if is_lazy(weight):
            raise ValueError(f"layer {title} has no shape yet: run the model once first")
        if _in_pieces(weight):
            raise ValueError(
                f"layer {title} is held in pieces by FullyShardedDataParallel; shard the model with fully_shard, or "
                "compute the energy in the forward of the module that is wrapped, as one piece"
            )
        if weight.ndim < 2:
            raise ValueError(f"layer {title} has a packed weight, without neurons: skip the layer")
        return weight


def _in_pieces(weight: Tensor) -> bool:
    """True if FullyShardedDataParallel has freed the weight, or holds a piece of it; its mark has no public name."""
    piece = weight.ndim < 2 and getattr(weight, "_fsdp_flattened", False)
    return piece or weight.numel() > 0 == weight.untyped_storage().nbytes()


def neuron_layers(model: nn.Module) -> list[Layer]:
    """List the layers with two neurons or more: convolutions, linear and bilinear layers, attention, heads.

    They are in the order of definition. The projections of `nn.MultiheadAttention` are layers of their own. A weight
    that several layers share is listed once. Depthwise convolutions have one neuron per group and are left out, as are
    layers with a packed weight, which has one dimension, and all other modules; `unlisted_weights` lists them. Weights
    that parametrisations (`weight_norm`, `spectral_norm`, ...) or the older hooks of `torch.nn.utils` compute are read
    as the layer uses them.

    Raises:
        ValueError: If a lazy layer has no shape yet.
    """
    layers, listed = [], set()
    for name, module in model.named_modules():
        for layer in _layers_of(name, module):
            if layer.is_packed:
                continue
            weight = layer.peek()
            key = (id(weight), layer.third) if isinstance(weight, nn.Parameter) else None
            if key not in listed and layer.shape[1] > 1:
                listed.update([key] if key else [])
                layers.append(layer)
    return layers


def unlisted_weights(model: nn.Module, layers: list[Layer] | tuple[Layer, ...]) -> list[str]:
    """Return the names of the weights with two dimensions or more that belong to none of the layers.

    These are for example those of embeddings, recurrent layers and depthwise convolutions, and of modules with a class
    of their own. Packed weights are listed too, also those of quantised modules, which are not parameters.
    """
    used = {id(p) for layer in layers for p in _sources(layer)}
    names = [name for name, p in model.named_parameters() if not is_lazy(p) and p.ndim > 1 and id(p) not in used]
    for name, module in model.named_modules():
        packed = list(dict.fromkeys(layer.parameter for layer in _layers_of(name, module) if layer.is_packed))
        if isfunction(getattr(type(module), "weight", None)):  # read from the class: a property may raise
            packed.append("weight")
        names += [f"{name}.{parameter}".lstrip(".") for parameter in packed]
    return names


def _layers_of(name: str, module: nn.Module) -> list[Layer]:
    """Return the layers that a module is, without its submodules."""
    if isinstance(module, nn.Linear | nn.Bilinear | _ConvNd | Head):
        return [Layer(name, module)]
    if not isinstance(module, nn.MultiheadAttention):
        return []
    titles = [f"{name}.{part}".lstrip(".") for part in _PROJECTIONS]
    if getattr(module, "in_proj_weight", None) is not None:
        return [Layer(title, module, "in_proj_weight", third) for third, title in enumerate(titles)]
    return [Layer(title, module, f"{part}_weight") for title, part in zip(titles, _PROJECTIONS, strict=True)]


def _sources(layer: Layer) -> list[nn.Parameter]:
    """Return the parameters from which the weight of a layer is computed."""
    parameters = dict(layer.module.named_parameters())
    start = (f"parametrizations.{layer.parameter}.", f"{layer.parameter}_")
    return [p for name, p in parameters.items() if name == layer.parameter or name.startswith(start)]
