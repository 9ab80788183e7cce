from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses
from torch import Tensor, nn

from sfplus.hypersphere.heads import HEADS, AdaFace, NormFace
from sfplus.hypersphere.margin import Head, angle
from sfplus.hypersphere.successors import SphereFace2, SphereFaceR

Case = tuple[str, dict[str, Any]]

EXACT: list[Case] = [
    ("softmax", {}),
    ("normface", {}),
    ("normface", {"learnable": True}),
    ("asoftmax", {"m": 1}),
    ("asoftmax", {"m": 5, "base": 0.0, "lambda_min": 0.5}),
    ("lsoftmax", {"m": 3, "base": 0.0, "lambda_min": 0.5}),
    ("cosface", {}),
    ("arcface", {}),
    ("adaface", {}),
    *[("sphereface-r", {"version": v, "gradient": "exact"}) for v in ("v0", "v1", "v2")],
    *[("sphereface-r", {"version": "v0", "normalisation": n, "gradient": "exact"}) for n in ("soft", "none")],
    ("sphereface-r", {"version": "v2", "normalisation": "soft", "m": 2.5, "gradient": "exact"}),
    *[("sphereface2", {"margin": m, "gradient": "exact"}) for m in ("C", "A", "M")],
]
DETACHED: list[Case] = [
    *[
        ("sphereface-r", {"version": v, "normalisation": n})
        for v in ("v0", "v1", "v2")
        for n in ("hard", "soft", "none")
    ],
    *[("sphereface2", {"margin": m}) for m in ("C", "A", "M")],
]
ALL: list[Case] = [*EXACT, *DETACHED, ("asoftmax", {"gradient": "caffe"})]


def name_of(case: object) -> str | None:
    return "-".join(map(str, case.values())) or "plain" if isinstance(case, dict) else None


def every(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("name", "options"), cases, ids=name_of)


def head_of(name: str, classes: int = 5, features: int = 6, **options: Any) -> Head:
    torch.manual_seed(0)
    return HEADS[name](features, classes, **options).double().eval()


def batch(samples: int = 12, features: int = 6, classes: int = 5) -> tuple[Tensor, Tensor]:
    return 3 * torch.randn(samples, features, dtype=torch.float64), torch.arange(samples) % classes


@every(ALL)
def test_common_interface(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    head = HEADS[name](8, 4, **options)
    x, labels = torch.randn(6, 8), torch.tensor([0, 3, 2, 1, 3, 3])
    assert isinstance(head, Head) and head.weight.shape == (4, 8)
    for length in (6, 1, 0):
        logits, plain = head(x[:length], labels[:length]), head.predict(x[:length])
        assert logits.shape == plain.shape == (length, 4) and logits.dtype == plain.dtype == torch.float32
        assert logits.isfinite().all() and plain.isfinite().all()
    loss = head.loss(x, labels)
    loss.backward()
    assert loss.shape == () and loss.isfinite() and head.current_lambda >= 0
    for parameter in head.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()
    assert f"8, 4{', ' if head.shown else ''}" in repr(head)
    assert head.double()(x, labels).dtype == torch.float64


@every(ALL)
def test_state_goes_on_where_it_was(name: str, options: dict[str, Any]) -> None:
    head, other = HEADS[name](8, 4, **options), HEADS[name](8, 4, **options)
    labels = torch.tensor([0, 1, 2])
    for _ in range(5):
        head(torch.randn(3, 8), labels)
    other.load_state_dict(head.state_dict())
    x = torch.randn(3, 8)
    assert torch.equal(head(x, labels), other(x, labels)) and head.current_lambda == other.current_lambda
    assert all(torch.equal(a, b) for a, b in zip(head.buffers(), other.buffers(), strict=True))


@every(ALL)
def test_autocast_changes_nothing(name: str, options: dict[str, Any]) -> None:
    head, labels = HEADS[name](64, 10, **options).eval(), torch.arange(4)
    x = torch.randn(4, 64).bfloat16()
    expected = head(x.float(), labels), head.predict(x.float()), head.loss(x.float(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = head(x, labels), head.predict(x), head.loss(x, labels)
    assert all(torch.equal(a, b) and a.dtype == torch.float32 for a, b in zip(got, expected, strict=True))


@every(ALL)
def test_learns_twenty_points(name: str, options: dict[str, Any]) -> None:
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every(ALL)
def test_edges_are_finite(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    """Features of length 0 or nearly, on a classifier (theta = 0), opposite (pi), and at right angles."""
    head = HEADS[name](3, 3, **options).to(dtype)
    head.weight.data.copy_(torch.eye(3))
    points = [[0, 0, 0], [3, 0, 0], [-3, 0, 0], [0, 2, 0], [1e-20, 0, 0], [-1e5, 1, 0]]
    x = torch.tensor(points, dtype=dtype, requires_grad=True)
    labels = torch.zeros(6, dtype=torch.int64)
    for value in (head(x, labels).square().sum(), head.loss(x, labels), head.predict(x).square().sum()):
        x.grad = None
        head.zero_grad()
        value.backward()
        assert value.isfinite() and x.grad is not None and x.grad.isfinite().all()
        assert x.grad.abs().max() < 1e12
        assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_angle_has_a_finite_slope(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    cosine = torch.tensor([1, 1 - eps / 2, 1 - eps, 0.5, -1 + eps / 2, -1, 1 + eps], dtype=dtype, requires_grad=True)
    theta = angle(cosine)
    expected = torch.tensor([0, 0, 0, math.pi / 3, math.pi, math.pi, 0], dtype=dtype)
    torch.testing.assert_close(theta, expected, atol=3 * eps**0.5, rtol=0)
    (slope,) = torch.autograd.grad(theta.sum(), cosine)
    assert slope[3] == pytest.approx(-2 / 3**0.5) and slope.abs().max() < eps**-0.5


@pytest.mark.parametrize("margin", ["C", "A", "M"])
def test_sphereface2_bears_cosines_rounded_beyond_one(margin: Any) -> None:
    torch.manual_seed(0)
    head = SphereFace2(64, 200, margin=margin, t=2.5, gradient="exact")
    x = (-head.weight.detach()).requires_grad_()
    assert (F.normalize(x, dim=1) @ F.normalize(head.weight, dim=1).T).min() < -1
    loss = head.loss(x, torch.arange(200)) + head.predict(x).mean()
    loss.backward()
    assert loss.isfinite() and x.grad is not None and x.grad.isfinite().all()


@every(EXACT)
def test_gradient_is_exact(name: str, options: dict[str, Any]) -> None:
    head = head_of(name, classes=4, features=3, **options)
    if isinstance(head, AdaFace):  # its z, which is not differentiated, at both ends
        head.batch_mean.fill_(3.0)
        head.batch_std.fill_(1e-4)
    x, labels = batch(5, 3, 4)
    inputs = (x.requires_grad_(), *[value.detach().clone().requires_grad_() for value in head.parameters()])
    for method in (head.forward, head.loss, lambda x, labels: head.predict(x)):
        assert torch.autograd.gradcheck(_Function(head, method, labels), inputs)
    assert torch.autograd.gradgradcheck(_Function(head, head.loss, labels), inputs)


class _Function:
    """A method of a head as a function of the features and of all parameters."""

    def __init__(self, head: Head, method: Callable[[Tensor, Tensor], Tensor], labels: Tensor) -> None:
        self.module, self.labels = nn.Module(), labels
        self.module.head, self.module.forward = head, method  # type: ignore[method-assign]
        self.names = [name for name, _ in self.module.named_parameters()]

    def __call__(self, x: Tensor, *values: Tensor) -> Tensor:
        parameters = dict(zip(self.names, values, strict=True))
        result: Tensor = torch.func.functional_call(self.module, parameters, (x, self.labels))
        return result


@every(DETACHED)
def test_detached_gradient_is_that_of_plain_cosines_at_the_shifted_logits(name: str, options: dict[str, Any]) -> None:
    head = head_of(name, **options)
    x, labels = batch()
    x.requires_grad_()
    logits = head(x, labels)
    exact = head_of(name, **options, gradient="exact")
    torch.testing.assert_close(logits, exact(x, labels))
    top = torch.randn_like(logits)
    got = torch.autograd.grad(logits, (x, head.weight), top)

    cosine = F.cosine_similarity(x[:, None], head.weight[None], dim=2)
    length = x.norm(dim=1, keepdim=True) if options.get("normalisation", "hard") != "hard" else head.scale
    shift = (logits - length * cosine - getattr(head, "bias", 0.0)).detach() / torch.as_tensor(length).detach()
    expected = torch.autograd.grad(length * (cosine + shift), (x, head.weight), top)
    torch.testing.assert_close(got, expected)
    assert not torch.allclose(got[0], torch.autograd.grad(exact(x, labels), x, top)[0], rtol=0.01)


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
    ids=name_of,
)
def test_same_as_pytorch_metric_learning(name: str, options: dict[str, Any], build: Any) -> None:
    """Its weight is (d, C), its margins of angles are in degrees, and its losses have no lambda.

    Some samples are nearly opposite to their classifier, where theta + m exceeds pi: there both lower the cosine.
    """
    if name in ("asoftmax", "lsoftmax"):
        options = options | {"base": 0.0, "lambda_min": 0.0}
    head, theirs = head_of(name, **options), build(5, 6).double()
    theirs.W.data.copy_(head.weight.detach().T)
    x, labels = batch(30)
    x[:10] = 0.1 * x[:10] - 2 * head.weight.detach()[labels[:10]]
    ours_x, theirs_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours, other = head.loss(ours_x, labels), theirs(theirs_x, labels)
    torch.testing.assert_close(ours, other, rtol=1e-10, atol=0)
    got = torch.autograd.grad(ours, (ours_x, head.weight))
    expected = torch.autograd.grad(other, (theirs_x, theirs.W))
    torch.testing.assert_close(got[0], expected[0], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(got[1], expected[1].T, rtol=1e-6, atol=1e-9)


def cosines_of(head: Head, x: Tensor) -> np.ndarray:
    w, x = head.weight.detach(), x.detach()
    return ((x @ w.T) / x.norm(dim=1)[:, None] / w.norm(dim=1)).numpy()


def entropy_of(logits: np.ndarray, labels: Tensor) -> float:
    return float(np.mean([np.log(np.exp(row - row[y]).sum()) for row, y in zip(logits, labels, strict=True)]))


@pytest.mark.parametrize("normalisation", ["hard", "soft", "none"])
@pytest.mark.parametrize(("version", "m"), [("v0", 1.5), ("v0", 4.0), ("v1", 1.7), ("v2", 1.4)])
def test_sphereface_r_is_the_formula_of_the_paper(version: Any, m: float, normalisation: Any) -> None:
    head = head_of("sphereface-r", version=version, m=m, normalisation=normalisation, scale=20.0)
    x, labels = batch(25)
    length = x.norm(dim=1).numpy()
    scale = np.full(25, 20.0) if normalisation == "hard" else length
    expected = cosines_of(head, x)
    np.testing.assert_allclose(head.predict(x).detach().numpy(), scale[:, None] * expected, atol=1e-12)
    for i, y in enumerate(labels.tolist()):
        for j in range(5):
            theta = math.acos(expected[i, j])
            k = math.floor(m * theta / math.pi)
            if version == "v0" and j == y:
                expected[i, j] = (-1) ** k * math.cos(m * theta) - 2 * k
            elif version == "v1" and j == y:
                expected[i, j] = math.cos(min(m * theta, math.pi))
            elif version == "v2" and j != y:
                expected[i, j] = math.cos(theta / m)
    expected *= scale[:, None]
    np.testing.assert_allclose(head(x, labels).detach().numpy(), expected, atol=1e-12)
    entropy = entropy_of(expected, labels)
    penalty = 0.01 * float(np.abs(length - 20).mean())
    loss = {"hard": 50 / 20 * entropy, "soft": 50 / 20 * entropy + penalty, "none": entropy}[normalisation]
    assert float(head.loss(x, labels).detach()) == pytest.approx(loss, rel=1e-12)


def test_the_margin_of_sphereface_r_rises_in_steps() -> None:
    """OpenSphere: 1 + dm times the number of steps below the counter, here with dm = 0.1."""
    head = SphereFaceR(6, 5, m=1.3, normalisation="none", steps=[2, 3, 6])
    margins = []
    for _ in range(8):
        head(torch.randn(2, 6), torch.tensor([0, 1]))
        margins.append(head.current_margin)
    np.testing.assert_allclose(margins, [1, 1, 1.1, 1.2, 1.2, 1.2, 1.3, 1.3])
    head.eval()(torch.randn(2, 6), torch.tensor([0, 1]))
    assert int(head.iteration) == 8 and "_steps" not in head.state_dict()
    assert SphereFaceR(6, 5, m=1.3).current_margin == 1.3


@pytest.mark.parametrize(("margin", "m"), [("C", 0.4), ("A", 0.5), ("M", 1.7)])
def test_sphereface2_is_the_formula_of_the_paper(margin: Any, m: float) -> None:
    head = head_of("sphereface2", margin=margin)
    x, labels = batch(25)
    cosine, bias, total = cosines_of(head, x), float(head.bias.detach()), 0.0  # type: ignore[operator]
    expected = np.empty_like(cosine)

    def similarity(z: float) -> float:
        return 2 * ((z + 1) / 2) ** 3 - 1

    for i, y in enumerate(labels.tolist()):
        for j in range(5):
            own, z = j == y, cosine[i, j]
            if margin == "A" and own:
                z = math.cos(min(math.acos(z) + m, math.pi))
            if margin == "M" and own:
                z = math.cos(min(math.acos(z) * m, math.pi))
            g = similarity(z)
            if margin == "C":
                g += -m if own else m
            expected[i, j] = 40 * g + bias
            total += 0.7 * math.log1p(math.exp(-expected[i, j])) if own else 0.3 * math.log1p(math.exp(expected[i, j]))
    np.testing.assert_allclose(head(x, labels).detach().numpy(), expected, atol=1e-11)
    assert float(head.loss(x, labels).detach()) == pytest.approx(10 / 40 * total / 25, rel=1e-10)
    np.testing.assert_allclose(head.predict(x).detach().numpy(), 40 * similarity(cosine) + bias, atol=1e-11)


@pytest.mark.parametrize("margin", ["C", "A", "M"])
@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_the_bias_of_sphereface2_starts_in_balance(margin: Any, classes: int) -> None:
    head = SphereFace2(classes + 1, classes, margin=margin, scale=64.0).double()
    head.weight.data.copy_(torch.eye(classes, classes + 1))
    head.loss(torch.eye(classes + 1, dtype=torch.float64)[-1:], torch.tensor([0])).backward()
    assert head.bias.grad is not None
    share = 10 / 64 * 0.7  # of the true class, the largest its pull can be
    assert abs(float(head.bias.grad)) < 1e-5 * share


def test_adaface_is_the_formula_of_the_paper() -> None:
    head = HEADS["adaface"](6, 5).double()
    mean, std = 20.0, 100.0
    torch.manual_seed(1)
    for _ in range(3):
        x, labels = batch(40)
        x[:20] = (
            0.01 * x[:20] + head.weight.detach()[labels[:20]] * (-1) ** torch.arange(20)[:, None]
        )  # theta near 0, pi
        x *= 10 ** torch.linspace(-5, 2, 40, dtype=torch.float64)[torch.randperm(40), None]
        logits = head(x, labels).detach().numpy()
        length = np.clip(x.norm(dim=1).numpy(), 0.001, 100)
        mean, std = 0.01 * length.mean() + 0.99 * mean, 0.01 * length.std(ddof=1) + 0.99 * std
        expected = cosines_of(head, x)
        for i, y in enumerate(labels.tolist()):
            z = max(-1, min(1, 0.333 * (length[i] - mean) / (std + 1e-3)))
            theta = max(0, min(math.pi, math.acos(expected[i, y]) - 0.4 * z))
            expected[i, y] = math.cos(theta) - (0.4 + 0.4 * z)
        np.testing.assert_allclose(logits, 64 * expected, atol=1e-6)  # the buffers were made in float32
        assert float(head.batch_mean) == pytest.approx(mean) and float(head.batch_std) == pytest.approx(std)
    head(x[:1], labels[:1])
    head.eval()(x, labels)
    assert float(head.batch_mean) == pytest.approx(mean), "one sample has no spread, evaluation moves nothing"


WITHOUT_MARGIN: list[Case] = [
    ("softmax", {}),
    ("normface", {}),
    *[(name, {"m": 1}) for name in ("asoftmax", "lsoftmax")],
    *[(name, {"m": 0.0}) for name in ("cosface", "arcface", "adaface")],
    *[("sphereface-r", {"m": 1.0, "version": version}) for version in ("v0", "v1", "v2")],
    *[("sphereface2", {"margin": margin, "m": m}) for margin, m in (("C", 0.0), ("A", 0.0), ("M", 1.0))],
]


@every(WITHOUT_MARGIN)
def test_predict_is_forward_without_margin(name: str, options: dict[str, Any]) -> None:
    head, (x, labels) = head_of(name, **options), batch()
    torch.testing.assert_close(head(x, labels), head.predict(x), atol=1e-10, rtol=0)


@every([case for case in EXACT if case[0] not in ("softmax", "normface") and case[1].get("m") != 1])
def test_margin_makes_every_sample_harder(name: str, options: dict[str, Any]) -> None:
    head, (x, labels) = head_of(name, **options), batch(40)

    def lead(logits: Tensor) -> Tensor:
        own = torch.arange(40), labels
        others = logits.index_put(own, torch.tensor(-math.inf, dtype=torch.float64)).amax(1)
        return logits[own] - others

    assert (lead(head(x, labels)) < lead(head.predict(x))).all()


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_invariances(seed: int, factor: float) -> None:
    """Rotating features and classifiers changes nothing, nor does the length of classifiers where it is normalised."""
    for name, options in EXACT:
        head = head_of(name, **options)
        torch.manual_seed(seed)
        x, labels = batch()
        expected = head(x, labels)
        turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
        order = torch.randperm(5)
        with torch.no_grad():
            head.weight.copy_(head.weight[order] @ turn * (factor if name not in ("softmax", "lsoftmax") else 1))
        got = head(x @ turn, order.argsort()[labels])
        torch.testing.assert_close(got, expected[:, order], rtol=1e-6, atol=1e-6)
        if isinstance(head, NormFace | SphereFace2) and not isinstance(head, AdaFace):
            torch.testing.assert_close(head(factor * (x @ turn), order.argsort()[labels]), got, rtol=1e-6, atol=1e-6)


def test_two_training_forwards_before_one_backward() -> None:
    labels = torch.tensor([0, 1])
    for name, build in HEADS.items():
        head = build(3, 4)
        sum(head.loss(torch.randn(2, 3), labels) for _ in range(2)).backward()  # type: ignore[union-attr]
        assert head.weight.grad is not None and head.weight.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sphereface-r", {"version": "v3"}, "version is one of v0, v1, v2, not v3"),
        ("sphereface-r", {"normalisation": "firm"}, "normalisation is one of"),
        ("sphereface-r", {"gradient": "caffe"}, "gradient is one of detached, exact"),
        ("sphereface-r", {"m": 0.9}, "1 or more, not 0.9"),
        ("sphereface2", {"margin": "B"}, "margin is one of C, A, M"),
        ("sphereface2", {"gradient": "caffe"}, "gradient is one of"),
        ("sphereface2", {"alpha": 1.0}, "0 < alpha < 1"),
        ("sphereface2", {"t": 0.5}, "t >= 1"),
        ("sphereface2", {"classes": 1}, "classes >= 2"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HEADS[name](**{"features": 3, "classes": 4} | options)
