from __future__ import annotations

import torch
from test_network_energy import small
from torch import nn

from sfplus.hypersphere import ASoftmax, HypersphericalEnergy
from sfplus.hypersphere.neurons import neuron_layers


def test_layers_have_their_neurons_as_rows_per_group() -> None:
    layers = neuron_layers(small())
    shapes = {layer.name: tuple(layer.neurons().shape) for layer in layers}
    assert shapes == {"0": (1, 8, 27), "3": (2, 6, 36), "5": (3, 2, 16), "7": (1, 10, 54)}
    transposed = small()[5]
    neuron = torch.cat([transposed.weight[4 + i, 1].flatten() for i in range(4)])  # second output of the second group
    torch.testing.assert_close(layers[2].neurons()[1, 1], neuron)


def test_heads_are_layers_and_shared_weights_count_once() -> None:
    model = nn.ModuleDict({"net": nn.Linear(4, 8), "head": ASoftmax(8, 5)})
    assert HypersphericalEnergy(model).output_layer == "head"
    model["net"].weight = model["head"].weight
    assert [layer.name for layer in neuron_layers(model)] == ["net"]
