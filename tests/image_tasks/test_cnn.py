"""Image classifiers against the tables of the papers, and the shapes and initialisation of the released code."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from sfplus.errors import UsageError
from sfplus.hypersphere import (
    AdversarialProjection,
    AngleProjection,
    HypersphericalEnergy,
    RandomProjection,
    SphereConv2d,
    WeightNormLinear,
)
from sfplus.image_tasks.cnn import create_classifier


def shapes(network: nn.Module) -> list[tuple[int, ...]]:
    kinds = nn.Conv2d | nn.Linear
    return [tuple(layer.weight.shape) for layer in network.modules() if isinstance(layer, kinds)]


def test_cnn9_has_the_shapes_of_the_released_code() -> None:
    # MHE, architecture.py: [3, 3, Cin, n] filters of conv1_0 to conv3_2, fc6 [4, 4, 256, 256], score [1, 1, 256, 100].
    widths = [3, 64, 64, 64, 128, 128, 128, 256, 256, 256]
    expected = [(after, before, 3, 3) for before, after in itertools.pairwise(widths)]
    network = create_classifier("cnn9", 100)
    assert shapes(network) == [*expected, (256, 256, 4, 4), (100, 256)]
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 100)


@pytest.mark.parametrize(
    ("name", "options", "convolutions", "filters"),
    [
        ("cnn6", {}, 6, (64, 128, 256)),  # MHE paper, table 3
        ("cnn15", {}, 15, (64, 128, 256)),
        ("cnn9", {"width": 16}, 9, (16, 32, 64)),  # table 2: 16/32/64 to 256/512/1024
        ("cnn9", {"width": 128}, 9, (128, 256, 512)),
        ("spherenet9", {"operator": "cosine"}, 9, (128, 192, 256)),  # spherenet.py
        ("mnist6", {"channels": 1, "size": 28}, 6, (16, 32, 64)),
    ],
)
def test_layers_and_widths(name: str, options: dict[str, object], convolutions: int, filters: tuple[int, ...]) -> None:
    network = create_classifier(name, 10, **options)  # type: ignore[arg-type]
    weights = shapes(network)
    assert len(weights) == convolutions + 2
    assert [shape[0] for shape in weights[:convolutions]] == [f for f in filters for _ in range(convolutions // 3)]
    channels, size = options.get("channels", 3), options.get("size", 32)
    batch = torch.zeros(2, channels, size, size)  # type: ignore[call-overload]
    assert network(batch).shape == (2, 10)
    assert network.features(batch).shape == (2, 2 if name == "mnist6" else 256)  # type: ignore[operator]
    assert all(p.ndim == 1 for n, p in network.named_parameters() if "bn" in n)
    assert not any(n.endswith("bias") for n, _ in network.named_parameters() if "bn" not in n)


def test_sphere_resnet32() -> None:
    network = create_classifier("sphere-resnet32", 10, operator="linear")
    angular = [layer for layer in network.modules() if isinstance(layer, SphereConv2d)]
    ordinary = [layer for layer in network.modules() if type(layer) is nn.Conv2d]
    # 1 + 3 x 5 x 2 convolutions on angles and the last layer: 32 (sphere_resnet_v1.py); two 1x1 shortcuts.
    assert len(angular) == 31 and {layer.operator for layer in angular} == {"linear"}
    assert [layer.kernel_size for layer in ordinary] == [(1, 1)] * 2
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert network.root(torch.zeros(1, 3, 32, 32)).shape == (1, 96, 32, 32)  # type: ignore[operator]


def test_narrow_residual_network_has_the_gradients_of_float64() -> None:
    torch.manual_seed(0)
    network = create_classifier("sphere-resnet32", 4, width=4)
    reference = copy.deepcopy(network).double()
    images = torch.randn(8, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    network(images).square().sum().backward()
    reference(images.double().contiguous()).square().sum().backward()
    for parameter, expected in zip(network.parameters(), reference.parameters(), strict=True):
        assert parameter.grad is not None and expected.grad is not None
        difference = (parameter.grad - expected.grad).norm() / expected.grad.norm()
        assert difference < 1e-3
    shortcut = network.units[5].shortcut  # type: ignore[index,union-attr]
    assert shortcut.weight.shape == (8, 4, 1, 1)


@pytest.mark.parametrize("name", ["cnn9", "spherenet9", "sphere-resnet32"])
def test_all_layers_have_kaiming_initialisation(name: str) -> None:
    torch.manual_seed(0)
    network = create_classifier(name, 100)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in, count = math.prod(layer.weight.shape[1:]), layer.weight.numel()
            assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=5 / math.sqrt(2 * count))
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.eps, layer.momentum) == (1e-3, pytest.approx(1 - 0.999))


def test_operator_and_weight_norm_replace_layers() -> None:
    network = create_classifier("spherenet9", 10, operator="sigmoid", weight_norm=True)
    assert len([layer for layer in network.modules() if isinstance(layer, SphereConv2d)]) == 10  # fc6 too
    assert isinstance(network.score, WeightNormLinear)
    resnet = create_classifier("torchvision:resnet18", 10, operator="cosine")
    assert isinstance(resnet.conv1, SphereConv2d) and resnet(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", ["cnn6", "sphere-resnet32"])
def test_rescaled_networks_can_equal_ordinary_ones(name: str) -> None:
    """SphereNorm with beta = rho = 1 and the operator cosine: c ||x|| ||w|| is the convolution."""
    torch.manual_seed(0)
    ordinary = create_classifier(name, 10, width=4).double().eval()
    rescaled = create_classifier(name, 10, width=4, operator="cosine", rescale=True).double().eval()
    rescaled.load_state_dict(ordinary.state_dict(), strict=False)
    layers = [layer for layer in rescaled.modules() if isinstance(layer, SphereConv2d)]
    assert len(layers) == (7 if name == "cnn6" else 31) and all(layer.rescale for layer in layers)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert (rescaled(x) - ordinary(x)).norm() > 0.1 * ordinary(x).norm()
    for layer in layers:
        nn.init.ones_(layer.rho)
    assert torch.allclose(rescaled(x), ordinary(x), rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cnn8", {}, "did you mean 'cnn9'"),
        ("torchvision:resnet18", {"width": 16}, "width"),
        ("torchvision:resnet", {}, "no network"),
    ],
)
def test_unknown_names_and_options_are_refused(name: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_classifier(name, 10, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("power", "distance", "tolerance", "hidden", "output"),
    [
        # MHE's logs of full-space runs at iteration 100, with a tenth of the released weights (hidden: the sum of ten
        # layers; output). By then the energies of layers with few dimensions have changed by one per cent.
        (2, "euclidean", 0.02, 0.5081, 0.5042),
        (1, "euclidean", 0.01, 0.7115, 0.7069),
        (0, "euclidean", 0.015, -0.6876, -0.6995),
        (0, "geodesic", 0.01, 0.6962, 0.6894),
        (1, "geodesic", 0.01, 2.010, 2.000),
        (2, "geodesic", 0.02, 4.044, 3.983),
    ],
)
def test_initial_energies_match_the_logs(
    power: float, distance: str, tolerance: float, hidden: float, output: float
) -> None:
    torch.manual_seed(0)
    energy = HypersphericalEnergy(create_classifier("cnn9", 100), power, distance, preset="tf1")  # type: ignore[arg-type]
    energy()
    values = {name: float(value) for name, value in energy.values.items()}
    assert values.pop("score") == pytest.approx(output, rel=tolerance)
    assert sum(values.values()) / 10 == pytest.approx(hidden, rel=tolerance)


def of_random(size: int, count: int = 0) -> float:
    """Return E[z^-2] of random directions, (d - 2) / (2 (d - 3)); with `count` half-space, where N pairs have 1/4."""
    full = (size - 2) / (2 * (size - 3))
    return (2 * (count - 1) * full + 0.25) / (2 * count - 1) if count else full


@pytest.mark.parametrize(
    ("projection", "size", "hidden"),
    [
        (None, 0, 0),
        (RandomProjection, 40, 5.1348),  # CoMHE's logs at iteration 0: pd40_pn20, pd30_pn1_iter1, pd30_pn1_iter10
        (AngleProjection, 30, 5.1797),
        (AdversarialProjection, 30, 5.1808),
    ],
)
def test_initial_energies_match_the_closed_form(projection: type, size: int, hidden: float) -> None:
    torch.manual_seed(0)
    network = create_classifier("cnn9", 100)
    with torch.no_grad():
        energy = HypersphericalEnergy(network, 2, half_space=True, projection=projection, preset="tf1")
        energy()
    values = {name: float(value) for name, value in energy.values.items()}
    assert values.pop("score") == pytest.approx(of_random(256), rel=2e-3)  # log: 5.0269 / 10
    counts = [64] * 3 + [128] * 3 + [256] * 4
    sizes = [27, 576, 576, 576, 1152, 1152, 1152, 2304, 2304, 4096]
    expected = sum(of_random(min(d, size or d), n) for d, n in zip(sizes, counts, strict=True))
    assert sum(values.values()) == pytest.approx(expected, rel=2e-3)
    if hidden:
        assert sum(values.values()) == pytest.approx(hidden, rel=4e-3)
