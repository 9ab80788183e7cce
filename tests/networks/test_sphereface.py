from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sfplus.errors import UsageError
from sfplus.networks import create
from sfplus.networks.sphereface import NETWORKS

PARAMETERS = {
    "sphereface4": 12_562_496,
    "sphereface10": 15_219_264,
    "sphereface20": 22_670_656,
    "sphereface36": 32_778_816,
    "sphereface64": 48_200_512,
    "sphereface64-caffe": 47_905_088,
}
CONVOLUTIONS = {
    "sphereface4": 4, "sphereface10": 10, "sphereface20": 20, "sphereface36": 36, "sphereface64": 64,
    "sphereface64-caffe": 62,
}  # fmt: skip
# Bottom and tops of the residual sums of sphereface_model.prototxt (20 layers).
SUMS_20 = {
    "1_1": ["1_3"],
    "2_1": ["2_3", "2_5"],
    "3_1": ["3_3", "3_5", "3_7", "3_9"],
    "4_1": ["4_3"],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_numbers_of_parameters(name: str) -> None:
    with torch.device("meta"):
        network = create(name)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_layer_names_and_number_of_layers(name: str) -> None:
    with torch.device("meta"):
        network = create(name, width=0.125)
    layers = {key.rpartition(".")[0] for key in network.state_dict()}
    convolutions = {layer[4:] for layer in layers if layer.startswith("conv")}
    assert layers == {f"conv{c}" for c in convolutions} | {f"relu{c}" for c in convolutions} | {"fc5"}
    assert len(convolutions) + 1 == CONVOLUTIONS[name] + 1, "fc5 is not counted"


def prelu_conv(state: dict[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    x = F.conv2d(x, state[f"conv{name}.weight"], state[f"conv{name}.bias"], stride=stride, padding=1)
    return torch.where(x > 0, x, x * state[f"relu{name}.weight"][:, None, None])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_forward_follows_the_prototxt(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    network = create("sphereface20", feature_size=24, width=0.125).to(memory_format=memory_format)  # type: ignore[call-overload]
    for parameter in network.parameters():  # the initial outputs of residual units are almost 0
        torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(2, 3, 112, 96)
    state = {name: tensor.double() for name, tensor in network.state_dict().items()}
    y = x.double()
    sizes = []
    for first, sums in SUMS_20.items():
        y = prelu_conv(state, first, y, stride=2)
        stage = first[0]
        for top in sums:
            last = int(top[2:])
            y = y + prelu_conv(state, top, prelu_conv(state, f"{stage}_{last - 1}", y))
        sizes.append(tuple(y.shape[1:]))
    assert sizes == [(8, 56, 48), (16, 28, 24), (32, 14, 12), (64, 7, 6)]
    flat = y.contiguous().reshape(2, -1)
    expected = flat @ state["fc5.weight"].T + state["fc5.bias"]
    features = network(x.contiguous(memory_format=memory_format))
    assert features.shape == (2, 24)
    torch.testing.assert_close(features.double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("input", ["112x96", "112x112"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_modern_blocks_follow_opensphere(input: str, batch_norm: bool) -> None:
    """The activation follows the sum; compared in float64 with the formulas written out."""
    torch.manual_seed(0)
    options = {"input": input, "block": "modern", "batch_norm": batch_norm}
    network = create("sphereface10", feature_size=6, width=0.05, **options).double().eval()
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            torch.nn.init.uniform_(tensor, 0.2, 0.7)
    state = network.state_dict()
    x = torch.randn(2, 3, *map(int, input.split("x")), dtype=torch.float64)

    def norm(name: str, x: Tensor) -> Tensor:
        if not batch_norm:
            return x
        mean, var, weight, bias = (state[f"bn{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        shape = (1, -1, 1, 1)[: x.dim()]
        return (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt() * weight.view(shape) + bias.view(shape)

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        y = F.conv2d(x, state[f"conv{name}.weight"], state.get(f"conv{name}.bias"), stride=stride, padding=1)
        return norm(name, y)

    def relu(name: str, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, x * state[f"relu{name}.weight"][:, None, None])

    y = relu("1_1", conv("1_1", x, 2))
    y = relu("2_1", conv("2_1", y, 2))
    y = relu("2_3", y + conv("2_3", relu("2_2", conv("2_2", y))))
    y = relu("3_1", conv("3_1", y, 2))
    y = relu("3_3", y + conv("3_3", relu("3_2", conv("3_2", y))))
    y = relu("3_5", y + conv("3_5", relu("3_4", conv("3_4", y))))
    y = relu("4_1", conv("4_1", y, 2)).flatten(1)
    expected = norm("5", y @ state["fc5.weight"].T + state["fc5.bias"])
    torch.testing.assert_close(network(x), expected)


def test_batch_normalisation_replaces_the_biases_and_is_trained() -> None:
    network = create("sphereface10", feature_size=4, width=0.05, batch_norm=True)
    names = set(network.state_dict())
    assert not {name for name in names if name.startswith("conv") and name.endswith("bias")}
    assert {name.partition(".")[0][4:] for name in names if name.startswith("conv")} == {
        name.partition(".")[0][2:] for name in names if name.startswith("bn") and not name.startswith("bn5")
    }
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_square_crops_only_enlarge_the_last_layer(name: str) -> None:
    with torch.device("meta"):
        network = create(name, input="112x112")
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name] + 512 * 7 * 512
    assert network.options == {"input": "112x112"}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"input": "96x112"}, "'96x112' is not a size of crops; use HEIGHTxWIDTH"),
        ({"block": "old"}, "is unknown; use one of"),
    ],
)
def test_unknown_values_of_options_are_refused(option: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create("sphereface4", **option)


def test_initial_weights_follow_the_prototxt() -> None:
    torch.manual_seed(0)
    network = create("sphereface20", width=0.5)
    for name, parameter in network.named_parameters():
        layer, kind = name.split(".")
        if layer.startswith("relu"):
            assert (parameter == 0.25).all() and parameter.requires_grad
        elif kind == "bias":
            trained = layer == "fc5" or layer.endswith("_1")
            assert (parameter == 0).all() and parameter.requires_grad == trained, name
        elif layer == "fc5" or layer.endswith("_1"):
            bound = (3 / parameter[0].numel()) ** 0.5
            assert (
                float(parameter.detach().abs().max()) == pytest.approx(bound, rel=0.01)
                and parameter.abs().max() <= bound
            )
        else:
            assert float(parameter.detach().std()) == pytest.approx(0.01, rel=0.05), name


def test_the_same_seed_gives_the_same_network() -> None:
    torch.manual_seed(3)
    first = create("sphereface10", width=0.125).state_dict()
    torch.manual_seed(3)
    second = create("sphereface10", width=0.125).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("feature_size", "width"), [(0, 1.0), (8, 0.0), (8, -1.0), (8, 1e9), (8, float("nan"))])
def test_impossible_sizes_are_refused(feature_size: int, width: float) -> None:
    with pytest.raises(UsageError, match="must be"):
        create("sphereface4", feature_size=feature_size, width=width)
