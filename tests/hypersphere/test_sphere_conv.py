from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_cases import mostly_slow, slow
from torch import Tensor, nn

from sfplus.hypersphere import sphere_conv_ops as module
from sfplus.hypersphere.sphere_conv import EPSILON, OPERATORS, SphereConv2d, to_sphere

GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 3},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": (3, 2), "padding": (2, 0), "stride": (1, 3), "dilation": (2, 1)},
    {"kernel_size": (4, 3), "padding": "same", "dilation": (1, 2)},
    {"kernel_size": 2, "padding": "valid"},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2},
    {"kernel_size": 3, "padding": 1, "stride": (2, 1), "groups": 4},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 3, "padding": (2, 1), "stride": 2, "padding_mode": "circular", "groups": 2},
    {"kernel_size": 4, "padding": "same", "padding_mode": "replicate"},
]


def create_layer(operator: str, rescale: bool = False, **geometry: Any) -> SphereConv2d:
    """Create a layer 4 -> 8 whose parameters all differ from their initial values."""
    torch.manual_seed(0)
    layer = SphereConv2d(4, 8, operator=operator, rescale=rescale, dtype=torch.float64, **geometry)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name != "weight":
                parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def images(dtype: torch.dtype = torch.float64, size: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, size, size - 1, dtype=torch.float64, generator=generator).to(dtype)


def g(theta: Tensor, operator: str, k: Tensor | float) -> Tensor:
    """Evaluate the formulas of spherenet.py."""
    if operator == "linear":
        return 1 - 2 / math.pi * theta
    if operator == "cosine":
        return theta.cos()
    k = torch.as_tensor(k, dtype=theta.dtype)
    amplitude = (1 + torch.exp(-math.pi / (2 * k))) / (1 - torch.exp(-math.pi / (2 * k)))
    power = torch.exp(theta / k - math.pi / (2 * k))
    return amplitude * (1 - power) / (1 + power)


def reference(layer: SphereConv2d, x: Tensor) -> Tensor:
    """Compute the layer patch by patch, by unfold, norms and arc cosine."""
    size, gap = layer.kernel_size, layer.dilation
    if layer.padding == "same":
        spans = [gap[i] * (size[i] - 1) for i in (1, 0)]
        pads = [pad for span in spans for pad in (span // 2, span - span // 2)]
    elif layer.padding == "valid":
        pads = [0, 0, 0, 0]
    else:
        pads = [layer.padding[1], layer.padding[1], layer.padding[0], layer.padding[0]]
    padded = F.pad(x, pads, "constant" if layer.padding_mode == "zeros" else layer.padding_mode)
    height, width = ((padded.shape[2 + i] - gap[i] * (size[i] - 1) - 1) // layer.stride[i] + 1 for i in (0, 1))
    responses = []
    filters = layer.out_channels // layer.groups
    for group, channels in enumerate(padded.chunk(layer.groups, 1)):
        patches = F.unfold(channels, size, gap, 0, layer.stride)  # (N, d, positions)
        for w, filter in enumerate(layer.weight[group * filters : (group + 1) * filters].flatten(1), group * filters):
            lengths = (patches.square().sum(1) + 1e-4).sqrt(), (filter.square().sum() + 1e-4).sqrt()
            theta = torch.acos(torch.einsum("ndp,d->np", patches, filter) / (lengths[0] * lengths[1]))
            k = layer.k_raw[w].abs() + 0.05 if layer.operator == "learnable-sigmoid" else layer.k
            response = g(theta, layer.operator, k)
            if layer.rescale:
                response = layer.beta[w] * (lengths[0] * lengths[1]) ** layer.rho[w] * response
            if layer.bias is not None:
                response = response + layer.bias[w]
            responses.append(response)
    return torch.stack(responses, 1).unflatten(2, (height, width))


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_equals_unfold_and_acos(operator: str, geometry: dict[str, Any], rescale: bool, device: torch.device) -> None:
    layer, x = create_layer(operator, rescale, **geometry).to(device), images().to(device).requires_grad_()
    response, expected = layer(x), reference(layer, x)
    assert response.shape == nn.Conv2d(4, 8, **geometry, dtype=torch.float64)(x).shape
    torch.testing.assert_close(response, expected, rtol=0, atol=1e-13)
    sources, upstream = [x, *layer.parameters()], torch.randn_like(response)
    gradients = torch.autograd.grad(response, sources, upstream)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, sources, upstream), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_parts_of_a_batch_give_the_same(
    operator: str, rescale: bool, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = create_layer(operator, rescale, kernel_size=3, groups=2).to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.cat([images(), images().flip(1)[:1]]).to(memory_format=layout).requires_grad_()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(module, "_PART", layer(x[:1]).numel())
    response, expected = layer(x), reference(layer, x)
    torch.testing.assert_close(response, expected, rtol=0, atol=1e-13)
    sources, upstream = [x, *layer.parameters()], torch.randn_like(response)
    gradients = torch.autograd.grad(response, sources, upstream)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, sources, upstream), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("geometry", [slow(GEOMETRIES[2]), GEOMETRIES[6], slow(GEOMETRIES[9])], ids=str)
def test_first_and_second_gradients_are_exact(operator: str, geometry: dict[str, Any], rescale: bool) -> None:
    layer, x = create_layer(operator, rescale, **geometry), images(size=5)[:1].requires_grad_()
    names, values = zip(*layer.named_parameters(), strict=True)

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *values), fast_mode=True)
    assert torch.autograd.gradgradcheck(call, (x, *values), fast_mode=True)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("wrt_input", [True, False])
def test_backward_with_create_graph_equals_unfold(operator: str, wrt_input: bool) -> None:
    layer, x = create_layer(operator, kernel_size=3, groups=2), images().requires_grad_(wrt_input)
    sources = [x, *layer.parameters()] if wrt_input else list(layer.parameters())

    def both_orders(response: Tensor) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(response.square().sum(), sources, create_graph=True)
        return first + torch.autograd.grad(sum(gradient.square().sum() for gradient in first), sources)

    gradients, expected = both_orders(layer(x)), both_orders(reference(layer, x))
    torch.testing.assert_close(gradients, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("k", [0.1, 0.3, 1.0, 5.0])
def test_response_falls_from_1_to_minus_1_over_all_angles(operator: str, k: float) -> None:
    """Filters on a half circle against one direction have the g of the original formula, from 1 through 0 to -1."""
    theta = torch.linspace(0, math.pi, 721, dtype=torch.float64)[1:-1]
    layer = SphereConv2d(2, len(theta), 1, operator=operator, k=k, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(1e5 * torch.stack([theta.cos(), theta.sin()], 1)[..., None, None])
        if operator == "learnable-sigmoid":
            layer.k_raw.copy_((k - 0.05) * (theta - 1).sign())
    response = layer(torch.tensor([1e5, 0.0], dtype=torch.float64)[:, None, None]).flatten().detach()
    torch.testing.assert_close(response, g(theta, operator, k), rtol=0, atol=1e-9)
    assert (response.diff() < 0).all() and response.abs().max() < 1
    assert response[0] > 0.99 and response[359].abs() < 1e-12


def test_initial_values_are_those_of_the_originals() -> None:
    torch.manual_seed(0)
    layer = SphereConv2d(64, 128, 3, operator="learnable-sigmoid", rescale=True)
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.01)
    assert (layer.k_raw == 0.7).all() and (layer.beta == 1).all() and (layer.rho == 0).all()
    assert layer.bias is not None and (layer.bias == 0).all()
    plain = SphereConv2d(2, 3, 3)
    assert (plain.operator, plain.k, plain.bias, plain.rescale) == ("cosine", 0.3, None, False)
    for parameter in layer.parameters():
        nn.init.constant_(parameter, 5.0)
    layer.reset_parameters()
    assert (layer.k_raw == 0.7).all() and (layer.beta == 1).all() and layer.weight.std() < 1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_rescaled_cosine_is_the_ordinary_convolution(
    geometry: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 8, **geometry, dtype=dtype)
    layer = to_sphere(copy.deepcopy(plain), rescale=True)
    nn.init.ones_(layer.rho)  # type: ignore[arg-type]
    x = images(dtype)
    torch.testing.assert_close(layer(x), plain(x), rtol=tolerance, atol=tolerance)
    nn.init.zeros_(layer.rho)  # type: ignore[arg-type]
    assert not torch.allclose(layer(x), plain(x), rtol=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("rescale", [False, True])
def test_results_are_finite_for_extreme_patches(operator: str, dtype: torch.dtype, rescale: bool) -> None:
    """Patches equal to their filter, opposite, zero or huge: squares overflow in float16, cosines round in float32."""
    torch.manual_seed(0)
    layer = SphereConv2d(64, 8, 3, operator=operator, rescale=rescale)
    huge = 300.0 if dtype == torch.float16 else 1e15
    with torch.no_grad():
        layer.weight[4:] *= 100 if dtype == torch.float16 else 1e8
    layer = layer.to(dtype)
    patches = torch.cat([layer.weight.detach(), -layer.weight.detach(), torch.zeros(1, 64, 3, 3, dtype=dtype)])
    patches = torch.cat([patches, huge * patches.sign()]).requires_grad_()
    response = layer(patches)
    assert response.isfinite().all() and response.abs().max() <= 1 + 2 * torch.finfo(dtype).eps
    assert (response[16] == 0).all() and (response[-1] == 0).all()
    for i in range(4, 8):
        assert response[i, i] > 0.9 and response[8 + i, i] < -0.9
    gradients = torch.autograd.grad(response.float().sum(), [patches, *layer.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert gradients[0].float().abs().max() > 0


def test_clamped_cosines_have_no_gradient() -> None:
    layer = SphereConv2d(3, 1, 1, operator="linear")
    x = torch.tensor([1e6, 0.0, 0.0])[:, None, None].requires_grad_()
    with torch.no_grad():
        layer.weight.copy_(x[None])
    response = layer(x)
    assert 0.999 < response.item() < 1
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(response, [x, layer.weight]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("rescale", [False, True])
def test_autocast_affects_only_the_convolution(operator: str, dtype: torch.dtype, rescale: bool) -> None:
    layer, x = create_layer(operator, rescale, kernel_size=3, padding=1).float(), images(torch.float32)
    x.requires_grad_()
    with torch.autocast("cpu", dtype):
        response = layer(x)
        unit = layer.weight / (layer.weight.square().sum((1, 2, 3), keepdim=True) + EPSILON).sqrt()
        projection = F.conv2d(x, unit, padding=1)
    assert response.dtype == projection.dtype == dtype
    norm = (F.conv2d(x.double().square(), torch.ones(1, 4, 3, 3).double(), padding=1) + EPSILON).sqrt()
    k = layer.k_raw.abs()[:, None, None] + 0.05 if operator == "learnable-sigmoid" else layer.k
    expected = g(torch.acos(projection.double() / norm), operator, k)
    if rescale:
        weight = (layer.weight.double().square().sum((1, 2, 3)) + EPSILON).sqrt()[:, None, None]
        beta, rho, bias = (value[:, None, None] for value in (layer.beta, layer.rho, layer.bias))
        expected = beta * (norm * weight) ** rho * expected + bias
    torch.testing.assert_close(response.double(), expected, rtol=torch.finfo(dtype).eps / 2 + 1e-5, atol=1e-5)

    sources, upstream = [x, *layer.parameters()], torch.randn_like(response)
    rough = torch.autograd.grad(response, sources, upstream)
    exact = torch.autograd.grad(layer(x), sources, upstream.float())
    for a, b in zip(rough, exact, strict=True):
        assert a.dtype == b.dtype and (a - b).norm() < 0.02 * b.norm()


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_half_precision(operator: str, dtype: torch.dtype) -> None:
    layer, x = create_layer(operator, True, kernel_size=3, padding=1, groups=2).float(), images(torch.float32)
    half, x_half = copy.deepcopy(layer).to(dtype), x.to(dtype).requires_grad_()
    response = half(x_half)
    assert response.dtype == dtype
    torch.testing.assert_close(response.float(), layer(x), rtol=0.03, atol=0.03)
    response.float().square().sum().backward()
    x.requires_grad_()
    layer(x).square().sum().backward()
    assert x_half.grad is not None and x.grad is not None
    assert (x_half.grad - x.grad).norm() < 0.02 * x.grad.norm()


@pytest.mark.parametrize("operator", OPERATORS)
def test_channels_last(operator: str) -> None:
    layer, x = create_layer(operator, groups=2, kernel_size=3), images()
    last = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    x_last = x.to(memory_format=torch.channels_last).requires_grad_()
    response, expected = last(x_last), layer(x.requires_grad_())
    assert response.is_contiguous(memory_format=torch.channels_last) and expected.is_contiguous()
    torch.testing.assert_close(response.contiguous(), expected, rtol=0, atol=1e-14)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(response, [x_last, *last.parameters()], upstream)
    expected_gradients = torch.autograd.grad(expected, [x, *layer.parameters()], upstream)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-10, atol=1e-12, check_stride=False)


@pytest.mark.parametrize("operator", mostly_slow(OPERATORS, ["cosine"]))
def test_compiles_in_one_graph(operator: str) -> None:
    layer = create_layer(operator, operator != "cosine", kernel_size=3, padding="same", groups=2)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = images().requires_grad_()
    response, expected = compiled(x), layer(x)
    sources, upstream = [x, *layer.parameters()], torch.randn_like(expected)
    torch.testing.assert_close(response, expected, rtol=0, atol=1e-14)
    gradients = torch.autograd.grad(response, sources, upstream)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, sources, upstream), rtol=1e-10, atol=1e-12)


def test_input_may_have_more_uses_and_a_second_backward() -> None:
    """The gradient of the input is written in place, which must not change other gradients."""
    layers = [create_layer(operator, kernel_size=3, padding=1) for operator in ("sigmoid", "linear")]
    x = images().requires_grad_()
    y = x * 2
    hooked: list[Tensor] = []
    y.register_hook(hooked.append)
    response = layers[0](y) + layers[1](y) + y.repeat(1, 2, 1, 1)
    upstream = torch.randn_like(response)
    copied = upstream.clone()
    (first,) = torch.autograd.grad(response, x, upstream, retain_graph=True)
    first = first.clone()
    (again,) = torch.autograd.grad(response, x, upstream)
    z = (2 * x.detach()).requires_grad_()
    expected = reference(layers[0], z) + reference(layers[1], z) + z.repeat(1, 2, 1, 1)
    (by_y,) = torch.autograd.grad(expected, z, upstream)
    assert torch.equal(first, again) and torch.equal(upstream, copied)
    torch.testing.assert_close(first, 2 * by_y, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(hooked[0], by_y, rtol=1e-10, atol=1e-12)


def test_only_the_last_backward_overwrites_what_was_saved() -> None:
    layer, x = create_layer("sigmoid", kernel_size=3, groups=2), images().requires_grad_()
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        response = layer(x)
    (projection,) = (tensor for tensor in saved if tensor.ndim == 5 and tensor.shape[2] == 4)
    before = projection.clone()
    torch.autograd.grad(response.sum(), x, retain_graph=True)
    assert torch.equal(projection, before)
    torch.autograd.grad(response.sum(), x)
    assert not torch.equal(projection, before)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("rescale", [False, True])
def test_next_layer_may_work_in_place(operator: str, rescale: bool) -> None:
    layer, x = create_layer(operator, rescale, kernel_size=3), images().requires_grad_()
    sources = [x, *layer.parameters()]
    gradients = torch.autograd.grad(F.relu_(layer(x)).square().sum(), sources)
    expected = torch.autograd.grad(F.relu(reference(layer, x)).square().sum(), sources)
    torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-11)


@settings(max_examples=30, deadline=None)
@given(
    operator=st.sampled_from(OPERATORS),
    scale=st.floats(1, 1e6),
    groups=st.sampled_from([1, 2, 4]),
    size=st.integers(1, 3),
    seed=st.integers(0, 10_000),
)
def test_response_depends_only_on_the_angle(operator: str, scale: float, groups: int, size: int, seed: int) -> None:
    """It is odd in patch and filter, and does not depend on lengths that are large compared with EPSILON."""
    layer = create_layer(operator, kernel_size=size, groups=groups)
    x = 1e8 * torch.randn(1, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        layer.weight *= 1e8
        response = layer(x)
        torch.testing.assert_close(layer(-x), -response, rtol=0, atol=1e-13)
        torch.testing.assert_close(layer(scale * x), response, rtol=0, atol=1e-6)
        layer.weight *= -scale
        torch.testing.assert_close(layer(x), -response, rtol=0, atol=1e-6)


def test_single_images_empty_batches_and_inference_mode_work() -> None:
    layer, x = create_layer("sigmoid", True, kernel_size=3, padding=1, padding_mode="reflect"), images()
    torch.testing.assert_close(layer(x[0]), layer(x)[0])
    assert layer(x[:0]).shape == (0, 8, 7, 6)
    with torch.inference_mode():
        assert not layer(x).requires_grad


@pytest.mark.parametrize("operator", OPERATORS)
def test_state_dict_round_trip(operator: str) -> None:
    layer = create_layer(operator, True, kernel_size=3)
    loaded = SphereConv2d(4, 8, 3, operator=operator, rescale=True, dtype=torch.float64)
    loaded.load_state_dict(layer.state_dict())
    assert torch.equal(loaded(images()), layer(images()))
    expected = {"weight", "bias", "beta", "rho"} | ({"k_raw"} if operator == "learnable-sigmoid" else set())
    assert set(layer.state_dict()) == expected
    assert operator in repr(layer) and "rescale" in repr(layer)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"operator": "cos"}, "linear, cosine"), ({"k": 0.0}, "positive"), ({"k": math.nan}, "positive")],
)
def test_wrong_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SphereConv2d(2, 2, 3, **options)
