"""Tests of all heads; those of one family have a file of their own."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from head_cases import ALL, DETACHED, EXACT, Case, Function, batch, create_head, each_head, name_case
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses
from slow_cases import mostly_slow
from torch import Tensor

from sfplus.hypersphere import HEADS, AdaFace, NormFace, Softmax, SphereFace2
from sfplus.hypersphere.heads import base
from sfplus.hypersphere.heads.base import Head


@each_head(ALL)
def test_heads_share_one_interface(name: str, options: dict[str, Any], device: torch.device) -> None:
    torch.manual_seed(0)
    head = HEADS[name](8, 4, **options).to(device)
    x, labels = torch.randn(6, 8).to(device), torch.tensor([0, 3, 2, 1, 3, 3]).to(device)
    assert isinstance(head, Head) and head.weight.shape == (4, 8)
    for length in (6, 1, 0):
        logits, plain = head.logits(x[:length], labels[:length]), head.predict(x[:length])
        assert logits.shape == plain.shape == (length, 4) and logits.dtype == plain.dtype == torch.float32
        assert logits.isfinite().all() and plain.isfinite().all()
    loss = head(x, labels)
    loss.backward()
    assert loss.device == x.device and torch.equal(head.eval()(x, labels), head.loss(x, labels))
    assert loss.shape == () and loss.isfinite() and head.current_lambda >= 0
    for parameter in head.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()
    assert f"8, 4{', ' if head.repr_attributes else ''}" in repr(head)
    assert head.double().logits(x, labels).dtype == torch.float64


@each_head(ALL)
def test_state_dict_restores_counters_and_statistics(name: str, options: dict[str, Any]) -> None:
    head, resumed = HEADS[name](8, 4, **options), HEADS[name](8, 4, **options)
    labels = torch.tensor([0, 1, 2])
    for _ in range(5):
        head.logits(torch.randn(3, 8), labels)
    resumed.load_state_dict(head.state_dict())
    x = torch.randn(3, 8)
    assert torch.equal(head.logits(x, labels), resumed.logits(x, labels))
    assert head.current_lambda == resumed.current_lambda
    assert all(torch.equal(a, b) for a, b in zip(head.buffers(), resumed.buffers(), strict=True))


@each_head(ALL)
def test_autocast_has_no_effect(name: str, options: dict[str, Any]) -> None:
    head, labels = HEADS[name](64, 10, **options).eval(), torch.arange(4)
    x = torch.randn(4, 64).bfloat16()
    expected = head.logits(x.float(), labels), head.predict(x.float()), head.loss(x.float(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = head.logits(x, labels), head.predict(x), head.loss(x, labels)
    assert all(torch.equal(a, b) and a.dtype == torch.float32 for a, b in zip(results, expected, strict=True))


@each_head(mostly_slow(ALL, ALL[::4]))
def test_training_separates_twenty_points(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    head = HEADS[name](16, 5, **options)
    labels = torch.arange(20) % 5
    x = torch.randn(5, 16)[labels] + 0.5 * torch.randn(20, 16)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        head.loss(x, labels).backward()
        optimizer.step()
    assert torch.equal(head.predict(x).argmax(1), labels)


@each_head(ALL)
def test_extreme_features_give_finite_results(
    name: str, options: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> None:
    """The features have a length of about 0, or the angle 0, pi or pi/2 to their classifier."""
    head = HEADS[name](3, 3, **options).to(device, dtype)
    head.weight.data.copy_(torch.eye(3))
    points = [[0, 0, 0], [3, 0, 0], [-3, 0, 0], [0, 2, 0], [1e-20, 0, 0], [-1e5, 1, 0]]
    x = torch.tensor(points, dtype=dtype, device=device, requires_grad=True)
    labels = torch.zeros(6, dtype=torch.int64, device=device)
    for value in (head.logits(x, labels).square().sum(), head.loss(x, labels), head.predict(x).square().sum()):
        x.grad = None
        head.zero_grad()
        value.backward()
        assert value.isfinite() and x.grad is not None and x.grad.isfinite().all()
        assert x.grad.abs().max() < 1e12
        assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


@each_head(mostly_slow(EXACT, EXACT[::4]))
def test_gradient_is_exact(name: str, options: dict[str, Any]) -> None:
    head = create_head(name, classes=4, features=3, **options)
    if isinstance(head, AdaFace):  # z, which is not differentiated, is clamped at both ends
        head.batch_mean.fill_(3.0)
        head.batch_std.fill_(1e-4)
    x, labels = batch(5, 3, 4)
    inputs = (x.requires_grad_(), *[value.detach().clone().requires_grad_() for value in head.parameters()])
    for method in (head.logits, head.loss, lambda x, labels: head.predict(x)):
        assert torch.autograd.gradcheck(Function(head, method, labels), inputs)
    assert torch.autograd.gradgradcheck(Function(head, head.loss, labels), inputs)


@each_head(DETACHED)
def test_detached_gradient_is_that_of_cosines_plus_a_constant(name: str, options: dict[str, Any]) -> None:
    head = create_head(name, **options)
    x, labels = batch()
    x.requires_grad_()
    logits = head.logits(x, labels)
    exact = create_head(name, **options, gradient="exact")
    torch.testing.assert_close(logits, exact.logits(x, labels))
    top = torch.randn_like(logits)
    results = torch.autograd.grad(logits, (x, head.weight), top)

    cosine = F.cosine_similarity(x[:, None], head.weight[None], dim=2)
    length = x.norm(dim=1, keepdim=True) if options.get("normalisation", "hard") != "hard" else head.scale
    shift = (logits - length * cosine - getattr(head, "bias", 0.0)).detach() / torch.as_tensor(length).detach()
    expected = torch.autograd.grad(length * (cosine + shift), (x, head.weight), top)
    torch.testing.assert_close(results, expected)
    assert not torch.allclose(results[0], torch.autograd.grad(exact.logits(x, labels), x, top)[0], rtol=0.01)


@pytest.mark.parametrize(
    ("name", "options", "build"),
    [
        ("normface", {"scale": 20.0}, lambda c, d: losses.NormalizedSoftmaxLoss(c, d, temperature=1 / 20)),
        ("asoftmax", {"m": 4}, lambda c, d: losses.SphereFaceLoss(c, d, margin=4, scale=1)),
        ("asoftmax", {"m": 3}, lambda c, d: losses.SphereFaceLoss(c, d, margin=3, scale=1)),
        ("asoftmax", {"m": 6}, lambda c, d: losses.SphereFaceLoss(c, d, margin=6, scale=1)),
        ("lsoftmax", {"m": 2}, lambda c, d: losses.LargeMarginSoftmaxLoss(c, d, margin=2, scale=1)),
        ("lsoftmax", {"m": 4}, lambda c, d: losses.LargeMarginSoftmaxLoss(c, d, margin=4, scale=1)),
        ("cosface", {}, lambda c, d: losses.CosFaceLoss(c, d, margin=0.35, scale=64)),
        ("arcface", {}, lambda c, d: losses.ArcFaceLoss(c, d, margin=math.degrees(0.5), scale=64)),
        ("arcface", {"m": 1.2}, lambda c, d: losses.ArcFaceLoss(c, d, margin=math.degrees(1.2), scale=64)),
    ],
    ids=name_case,
)
def test_heads_equal_pytorch_metric_learning(name: str, options: dict[str, Any], build: Any) -> None:
    """pytorch-metric-learning stores (d, C), has angular margins in degrees, and no lambda.

    Some samples are nearly opposite to their classifier, where theta + m exceeds pi and both lower the cosine.
    """
    if name in ("asoftmax", "lsoftmax"):
        options = options | {"base": 0.0, "lambda_min": 0.0}
    head, theirs = create_head(name, **options), build(5, 6).double()
    theirs.W.data.copy_(head.weight.detach().T)
    x, labels = batch(30)
    x[:10] = 0.1 * x[:10] - 2 * head.weight.detach()[labels[:10]]
    ours_x, theirs_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    loss, expected_loss = head.loss(ours_x, labels), theirs(theirs_x, labels)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-10, atol=0)
    results = torch.autograd.grad(loss, (ours_x, head.weight))
    expected = torch.autograd.grad(expected_loss, (theirs_x, theirs.W))
    torch.testing.assert_close(results[0], expected[0], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(results[1], expected[1].T, rtol=1e-6, atol=1e-9)


WITHOUT_MARGIN: list[Case] = [
    ("softmax", {}),
    ("normface", {}),
    *[(name, {"m": 1}) for name in ("asoftmax", "lsoftmax")],
    *[(name, {"m": 0.0}) for name in ("cosface", "arcface", "adaface")],
    *[("sphereface-r", {"m": 1.0, "version": version}) for version in ("v0", "v1", "v2")],
    *[("sphereface2", {"margin": margin, "m": m}) for margin, m in (("C", 0.0), ("A", 0.0), ("M", 1.0))],
]


@each_head(WITHOUT_MARGIN)
def test_predict_equals_logits_without_margin(name: str, options: dict[str, Any]) -> None:
    head, (x, labels) = create_head(name, **options), batch()
    torch.testing.assert_close(head.logits(x, labels), head.predict(x), atol=1e-10, rtol=0)


@each_head([case for case in EXACT if case[0] not in ("softmax", "normface") and case[1].get("m") != 1])
def test_margin_reduces_the_lead_of_the_true_class(name: str, options: dict[str, Any]) -> None:
    head, (x, labels) = create_head(name, **options), batch(40)

    def lead(logits: Tensor) -> Tensor:
        target = torch.arange(40), labels
        largest_negative = logits.index_put(target, torch.tensor(-math.inf, dtype=torch.float64)).amax(1)
        return logits[target] - largest_negative

    assert (lead(head.logits(x, labels)) < lead(head.predict(x))).all()


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_logits_are_invariant_to_rotation_order_and_norms(seed: int, factor: float) -> None:
    """Rotations of features and classifiers have no effect, nor does the norm of classifiers if it is normalised."""
    for name, options in EXACT:
        head = create_head(name, **options)
        torch.manual_seed(seed)
        x, labels = batch()
        expected = head.logits(x, labels)
        rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
        order = torch.randperm(5)
        with torch.no_grad():
            head.weight.copy_(head.weight[order] @ rotation * (factor if name not in ("softmax", "lsoftmax") else 1))
        results = head.logits(x @ rotation, order.argsort()[labels])
        torch.testing.assert_close(results, expected[:, order], rtol=1e-6, atol=1e-6)
        if isinstance(head, NormFace | SphereFace2) and not isinstance(head, AdaFace):
            scaled = head.logits(factor * (x @ rotation), order.argsort()[labels])
            torch.testing.assert_close(scaled, results, rtol=1e-6, atol=1e-6)


def test_two_training_forwards_may_precede_one_backward() -> None:
    labels = torch.tensor([0, 1])
    for name, build in HEADS.items():
        head = build(3, 4)
        sum(head.loss(torch.randn(2, 3), labels) for _ in range(2)).backward()  # type: ignore[union-attr]
        assert head.weight.grad is not None and head.weight.grad.isfinite().all(), name


WRONG_MARGINS = [(*pair, m) for pair in (("asoftmax", "ASoftmax"), ("lsoftmax", "LSoftmax")) for m in (0, 1.5, -2)]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sphereface-r", {"version": "v3"}, "version of SphereFaceR must be one of v0, v1, v2, not v3"),
        ("sphereface-r", {"normalisation": "firm"}, "normalisation of SphereFaceR must be one of"),
        ("sphereface-r", {"gradient": "caffe"}, "gradient of SphereFaceR must be one of detached, exact"),
        ("sphereface-r", {"m": 0.9}, "m of SphereFaceR must be >= 1, not 0.9"),
        ("sphereface2", {"margin": "B"}, "margin of SphereFace2 must be one of C, A, M"),
        ("sphereface2", {"gradient": "caffe"}, "gradient of SphereFace2 must be one of"),
        ("sphereface2", {"alpha": 1.0}, "alpha of SphereFace2 must be < 1"),
        ("sphereface2", {"t": 0.5}, "t of SphereFace2 must be >= 1"),
        ("sphereface2", {"classes": 1}, "at least 2 classes"),
        *[
            (name, {"m": m}, f"m of {title} must be an integer of at least 1, not {m}")
            for name, title, m in WRONG_MARGINS
        ],
        ("lsoftmax", {"gamma": -1}, "gamma of LSoftmax must be >= 0, not -1"),
        ("asoftmax", {"base": "1000"}, "base of ASoftmax must be a number, not '1000'"),
        ("asoftmax", {"gradient": "detached"}, "gradient of ASoftmax must be one of exact, caffe, not detached"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HEADS[name](**{"features": 3, "classes": 4} | options)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_has_an_explicit_signature_and_names_itself(name: str) -> None:
    kind = HEADS[name]
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in inspect.signature(kind).parameters.values())
    with pytest.raises(
        TypeError, match=rf"^{kind.__name__}\.__init__\(\) got an unexpected keyword argument 'margins'"
    ):
        kind(3, 4, margins=2)  # type: ignore[call-arg]


def test_options_of_a_base_class_are_checked() -> None:
    with pytest.raises(ValueError, match=r"lambda_min of ASoftmax must be >= 0, not -1"):
        HEADS["asoftmax"](3, 4, lambda_min=-1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"scale of CosFace must be > 0, not 0"):
        HEADS["cosface"](3, 4, scale=0)  # type: ignore[call-arg]


def test_a_subclass_with_a_name_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "REGISTRY", {})

    class Named(Softmax):
        name = "named"

    class Unnamed(Named):
        pass

    assert {"named": Named} == base.REGISTRY and Unnamed.name == "named"
