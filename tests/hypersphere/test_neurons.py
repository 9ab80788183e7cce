from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from test_network_energy import small
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from sfplus.hypersphere import ASoftmax, HypersphericalEnergy, RandomProjection, SphereConv2d, hyperspherical_energy
from sfplus.hypersphere.neurons import neuron_layers


def test_layers_have_their_neurons_as_rows_per_group() -> None:
    layers = neuron_layers(small())
    shapes = {layer.name: tuple(layer.neurons().shape) for layer in layers}
    assert shapes == {"0": (1, 8, 27), "3": (2, 6, 36), "5": (3, 2, 16), "7": (1, 10, 54)}
    assert shapes == {layer.name: layer.shape for layer in layers}
    transposed = small()[5]
    neuron = torch.cat([transposed.weight[4 + i, 1].flatten() for i in range(4)])  # second output of the second group
    torch.testing.assert_close(layers[2].neurons()[1, 1], neuron)


def test_neurons_in_any_order_are_not_copied() -> None:
    contiguous, last = small(), small().to(memory_format=torch.channels_last)
    for layer, expected in zip(neuron_layers(last), neuron_layers(contiguous), strict=True):
        neurons = layer.neurons(any_order=True)
        assert torch.equal(layer.neurons(), expected.neurons())
        torch.testing.assert_close(neurons @ neurons.mT, expected.neurons() @ expected.neurons().mT)
        assert neurons.data_ptr() == layer.peek().data_ptr() or isinstance(layer.module, nn.ConvTranspose2d)
    torch.testing.assert_close(HypersphericalEnergy(last)(), HypersphericalEnergy(contiguous)())


def test_heads_are_layers_and_shared_weights_count_once() -> None:
    model = nn.ModuleDict({"net": nn.Linear(4, 8), "head": ASoftmax(8, 5)})
    assert HypersphericalEnergy(model).output_layer == "head"
    model["net"].weight = model["head"].weight
    assert [layer.name for layer in neuron_layers(model)] == ["net"]


def materialised(module: nn.Module, *shape: int) -> nn.Module:
    module(torch.randn(shape))
    return module


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao.quantization is deprecated
        model: nn.Module = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 3)), {nn.Linear})
    return model[0]


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Parameter(torch.randn(4, 3))


class WithProperty(nn.Module):
    @property
    def weight(self) -> torch.Tensor:
        raise RuntimeError("no weight before the first fit")


class Packed(nn.Linear):
    """A linear layer whose weight is in a format of its own, as in some libraries of quantised layers."""

    def __init__(self) -> None:
        super().__init__(4, 5)
        self.weight = nn.Parameter(torch.zeros(10, dtype=torch.uint8), requires_grad=False)


LISTED: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "linear": (lambda: nn.Linear(4, 3), [""]),
    "bilinear": (lambda: nn.Bilinear(2, 3, 4), [""]),
    "convolution": (lambda: nn.Conv1d(2, 4, 3, groups=2), [""]),
    "transposed": (lambda: nn.ConvTranspose3d(2, 4, 3), [""]),
    "sphere": (lambda: SphereConv2d(3, 4, 3), [""]),
    "lazy": (lambda: materialised(nn.LazyConv2d(4, 3), 1, 2, 5, 5), [""]),
    "head": (lambda: ASoftmax(4, 3), [""]),
    "parametrised": (lambda: weight_norm(nn.Linear(4, 3)), [""]),
    "attention": (lambda: nn.MultiheadAttention(8, 2), [".q_proj", ".k_proj", ".v_proj", ".out_proj"]),
    "attention, own sizes": (
        lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=4), [".q_proj", ".k_proj", ".v_proj", ".out_proj"],
    ),
    "transformer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16),
        [".self_attn.q_proj", ".self_attn.k_proj", ".self_attn.v_proj", ".self_attn.out_proj", ".linear1", ".linear2"],
    ),
}  # fmt: skip
LEFT_OUT: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "embedding": (lambda: nn.Embedding(4, 3), [".weight"]),
    "bag": (lambda: nn.EmbeddingBag(4, 3), [".weight"]),
    "lstm": (lambda: nn.LSTM(3, 4), [".weight_ih_l0", ".weight_hh_l0"]),
    "gru": (lambda: nn.GRU(3, 4, bidirectional=True), [
        ".weight_ih_l0", ".weight_hh_l0", ".weight_ih_l0_reverse", ".weight_hh_l0_reverse"]),
    "cell": (lambda: nn.RNNCell(3, 4), [".weight_ih", ".weight_hh"]),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), [".weight"]),
    "one neuron": (lambda: nn.Linear(4, 1), [".weight"]),
    "own class": (Own, [".filters"]),
    "quantised": (quantised, [".weight"]),
    "packed": (Packed, [".weight"]),
    "a property that raises": (WithProperty, []),
    "none": (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.PReLU(4), nn.LayerNorm(4)), []),
}  # fmt: skip


@pytest.mark.parametrize("kind", [*LISTED, *LEFT_OUT])
def test_each_kind_of_layer_is_included_or_listed_as_left_out(kind: str) -> None:
    build, names = (LISTED | LEFT_OUT)[kind]
    model = nn.Sequential(build(), nn.Linear(5, 2))
    energy = HypersphericalEnergy(model)
    expected = [f"0{name}" for name in names]
    assert [layer.name for layer in energy.layers] == (expected if kind in LISTED else []) + ["1"]
    assert list(energy.left_out) == ([] if kind in LISTED else expected)
    energy().backward()
    assert list(energy.values) == [layer.name for layer in energy.layers]
    for layer in energy.layers:
        assert layer.neurons().shape == layer.shape
    if kind in LISTED:
        assert all(p.grad is not None for name, p in model.named_parameters() if p.ndim > 1)


def test_layers_that_are_skipped_are_left_out() -> None:
    energy = HypersphericalEnergy(nn.Sequential(nn.Linear(3, 4), nn.MultiheadAttention(4, 1)), skip=["*.k_proj", "0"])
    assert energy.left_out == ("0.weight",), "the weight of attention is used by its two other layers"


def test_projections_of_attention_are_thirds_of_its_weight() -> None:
    attention = nn.MultiheadAttention(6, 2)
    energy = HypersphericalEnergy(attention, power=1, hidden=1.0, output_layer="-", skip=["out_proj"])
    expected = [hyperspherical_energy(part, 1) for part in attention.in_proj_weight.chunk(3)]
    torch.testing.assert_close(energy(), sum(expected))  # type: ignore[arg-type]
    assert list(energy.values) == ["q_proj", "k_proj", "v_proj"]


OLD_HOOKS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": torch.nn.utils.weight_norm,
    "spectral_norm": torch.nn.utils.spectral_norm,
    "prune": lambda layer: prune.random_unstructured(layer, "weight", 0.3),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("forward_first", [False, True])
@pytest.mark.parametrize("kind", OLD_HOOKS)
def test_weights_of_hooks_before_forward_are_computed_at_each_call(kind: str, forward_first: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(OLD_HOOKS[kind](nn.Linear(5, 4)), nn.Linear(4, 3))
    energy = HypersphericalEnergy(model)
    assert not energy.left_out
    if forward_first:
        model(torch.randn(2, 5)).sum().backward()
    for _ in range(2):
        model.zero_grad()
        energy().backward()
        trained = [p for name, p in model[0].named_parameters() if name in ("weight_v", "weight_orig")]
        assert len(trained) == 1 and trained[0].grad is not None and trained[0].grad.any()
        with torch.no_grad():
            trained[0].add_(torch.randn_like(trained[0]))
        before = energy.values["0"]
        energy()
        assert energy.values["0"] != before, "the change of the parameter is seen before the next forward"
    model.eval()
    model(torch.randn(2, 5))
    torch.testing.assert_close(neuron_layers(model)[0].neurons()[0], model[0].weight)


def test_a_layer_in_pieces_is_refused() -> None:
    model = nn.Linear(4, 3)
    energy = HypersphericalEnergy(model)
    model.weight = nn.Parameter(model.weight.detach().flatten()[:5])
    with pytest.raises(ValueError, match="layer Linear has a packed weight, without neurons: skip"):
        energy()
    model.weight._fsdp_flattened = True  # type: ignore[assignment]
    for refused in (energy, lambda: HypersphericalEnergy(model)):
        with pytest.raises(ValueError, match=r"layer Linear is held in pieces .* with fully_shard, or"):
            refused()


@pytest.mark.parametrize("wrap", [spectral_norm, torch.nn.utils.spectral_norm, weight_norm])
def test_construction_changes_nothing_in_the_model(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """The weight of spectral_norm takes a step of its power iteration whenever it is read in training."""
    model = nn.Sequential(wrap(nn.Linear(8, 8)), nn.Linear(8, 4)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    energy = HypersphericalEnergy(model, projection=lambda size: RandomProjection(size, 4))
    assert [layer.shape for layer in energy.layers] == [(1, 8, 8), (1, 4, 8)]
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert all(module.training for module in model.modules())
