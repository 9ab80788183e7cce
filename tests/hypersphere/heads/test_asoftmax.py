from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from head_cases import Function
from test_margins import psi

from sfplus.hypersphere import ASoftmax, LSoftmax, margin_cosine


def head_of(m: int, classes: int = 5, features: int = 3, **options: Any) -> ASoftmax:
    torch.manual_seed(0)
    return ASoftmax(features, classes, m=m, **options).double()


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_logits_equal_those_of_the_caffe_layer(m: int) -> None:
    """The reference is a NumPy transcription of the forward pass of margin_inner_product_layer.cpp."""
    head = head_of(m, classes=6, features=4, base=100.0, gamma=0.3, power=0.7, lambda_min=2.0, iteration=10)
    x = torch.randn(8, 4, dtype=torch.float64)
    labels = torch.tensor([0, 5, 2, 2, 1, 4, 3, 0])
    w = head.weight.detach().numpy().copy()
    logits = head.logits(x, labels).detach().numpy()

    w /= np.linalg.norm(w, axis=1, keepdims=True)
    length = np.linalg.norm(x.numpy(), axis=1)
    expected = x.numpy() @ w.T
    relax = max(2.0, 100.0 * (1 + 0.3 * 11) ** -0.7)
    for i, y in enumerate(labels.numpy()):
        if m > 1:
            theta = np.arccos(expected[i, y] / length[i])
            expected[i, y] = (relax * expected[i, y] + length[i] * psi(theta, m)) / (1 + relax)
    np.testing.assert_allclose(logits, expected, atol=1e-12)
    np.testing.assert_allclose(head.weight.detach().numpy(), w, atol=1e-15)
    assert head.current_lambda == pytest.approx(relax)


def test_lambda_anneals_to_the_minimum_of_the_prototxt() -> None:
    head = ASoftmax(2, 2)
    assert head.current_lambda == 1000
    for passes, expected in ((1, 1000 / 1.12), (1658, 1000 / (1 + 0.12 * 1658)), (1659, 5.0), (28000, 5.0)):
        head.iteration.fill_(passes)
        assert head.current_lambda == pytest.approx(expected, rel=1e-12)
    head.iteration.fill_(1658)
    assert head.current_lambda > 5


def test_only_training_mode_counts_and_normalises() -> None:
    head = ASoftmax(3, 4).eval()
    initial = head.weight.detach().clone()
    head.logits(torch.randn(2, 3), torch.tensor([0, 1]))
    head.predict(torch.randn(2, 3))
    assert int(head.iteration) == 0 and torch.equal(head.weight, initial)
    head.train()(torch.randn(2, 3), torch.tensor([0, 1]))
    assert int(head.iteration) == 1
    torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(4))


def test_counter_is_saved() -> None:
    head = ASoftmax(3, 4)
    for _ in range(3):
        head.logits(torch.randn(2, 3), torch.tensor([0, 1]))
    loaded = ASoftmax(3, 4)
    loaded.load_state_dict(head.state_dict())
    assert int(loaded.iteration) == 3 and loaded.current_lambda == head.current_lambda


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_gradient_is_exact(m: int) -> None:
    head = head_of(m, lambda_min=0.5, base=0.5).eval()
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    weight = (3 * torch.randn(5, 3, dtype=torch.float64)).requires_grad_()

    logits = Function(head, head.logits, labels)
    assert torch.autograd.gradcheck(logits, (x, weight))
    assert torch.autograd.gradgradcheck(lambda x, w: F.cross_entropy(logits(x, w), labels), (x, weight))


def test_gradient_in_training_is_that_of_the_normalised_weight() -> None:
    """The in-place normalisation must not change the gradient."""
    head = head_of(4)
    x, labels = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 0])
    F.cross_entropy(head.logits(x, labels), labels).backward()
    trained = head.weight.grad
    again = head_of(4, iteration=1).eval()
    again.weight.data.copy_(head.weight.detach())
    F.cross_entropy(again.logits(x, labels), labels).backward()
    torch.testing.assert_close(trained, again.weight.grad)
    assert trained is not None
    radial = (trained * head.weight).sum(1)
    assert radial.abs().max() < 1e-12, "the gradient is orthogonal to the classifiers"


def test_two_forwards_may_precede_one_backward() -> None:
    head = ASoftmax(3, 4)
    labels = torch.tensor([0, 1])
    losses = [F.cross_entropy(head.logits(torch.randn(2, 3), labels), labels) for _ in range(2)]
    sum(losses).backward()  # type: ignore[union-attr]
    assert head.weight.grad is not None


def test_margin_lowers_the_logit_of_the_true_class() -> None:
    x, labels = torch.randn(20, 3, dtype=torch.float64), torch.arange(20) % 5
    previous = head_of(1).logits(x, labels)[torch.arange(20), labels]
    for m in (2, 3, 4):
        target = head_of(m, base=0.0, lambda_min=0.0).logits(x, labels)[torch.arange(20), labels]
        assert (target <= previous + 1e-12).all()
        previous = target


@pytest.mark.parametrize("gradient", ["exact", "caffe"])
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_zero_and_aligned_features_give_finite_results(m: int, gradient: Literal["exact", "caffe"]) -> None:
    head = ASoftmax(2, 2, m=m, base=0.0, lambda_min=0.0, gradient=gradient)
    head.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    x = torch.tensor([[0.0, 0.0], [3.0, 0.0], [-3.0, 0.0], [0.0, 2.0], [1e-20, 0.0]], requires_grad=True)
    logits = head.logits(x, torch.zeros(5, dtype=torch.int64))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert x.grad is not None and x.grad.isfinite().all()
    np.testing.assert_allclose(logits[1:3, 0].detach().numpy(), [3, 3 * (1 - 2 * m)], rtol=1e-6)


def test_predict_is_length_times_cosine() -> None:
    head, x = ASoftmax(6, 4), torch.randn(5, 6)
    expected = x.norm(dim=1, keepdim=True) * F.cosine_similarity(x[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(head.predict(x), expected)


def test_stays_in_float32_under_autocast() -> None:
    head, labels = ASoftmax(64, 10).eval(), torch.arange(4)
    x = torch.randn(4, 64)
    expected, plain = head.logits(x, labels), head.predict(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head.logits(x, labels), expected) and torch.equal(head.predict(x), plain)


def test_initial_weights_are_those_of_caffe() -> None:
    torch.manual_seed(0)
    weight = ASoftmax(512, 2000).weight
    bound = (3 / 512) ** 0.5
    assert weight.abs().max() <= bound and float(weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.01)


@pytest.mark.parametrize("m", [0, -1, 1.5])
def test_wrong_margins_are_refused(m: float) -> None:
    for build in (ASoftmax, LSoftmax):
        with pytest.raises(ValueError, match="an integer of at least 1"):
            build(2, 2, m=m)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="an integer of at least 1"):
        margin_cosine(torch.zeros(1), m)  # type: ignore[arg-type]


def caffe_coefficients(cosine: np.ndarray, length: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cw and cx of margin_inner_product_layer.cpp: d(||x|| psi) / dx = cw w + cx x for w of unit norm."""
    s0 = np.sign(cosine)
    if m == 2:
        return 4 * s0 * cosine, -(2 * s0 * cosine**2 + 1) / length
    if m == 3:
        s1 = np.sign(np.abs(cosine) - 0.5)
        s2 = s0 * (1 + s1) - 2
        return s1 * (12 * cosine**2 - 3), -(8 * s1 * cosine**3 - s2) / length
    s3 = s0 * np.sign(2 * cosine**2 - 1)
    s4 = 2 * s0 + s3 - 3
    return s3 * (32 * cosine**3 - 16 * cosine), -(s3 * (24 * cosine**4 - 8 * cosine**2 - 1) - s4) / length


@pytest.mark.parametrize("m", [2, 3, 4])
def test_coefficients_of_the_caffe_layer_equal_the_numeric_gradient(m: int) -> None:
    rng = np.random.default_rng(m)
    x, w = rng.standard_normal((2, 50, 6))
    w /= np.linalg.norm(w, axis=1, keepdims=True)

    def target(x: np.ndarray) -> np.ndarray:
        length = np.linalg.norm(x, axis=1)
        return length * margin_cosine(torch.from_numpy((x * w).sum(1) / length), m).numpy()

    length = np.linalg.norm(x, axis=1)
    cw, cx = caffe_coefficients((x * w).sum(1) / length, length, m)
    numeric = [(target(x + step) - target(x - step)) / 2e-6 for step in 1e-6 * np.eye(6)]
    np.testing.assert_allclose(cw[:, None] * w + cx[:, None] * x, np.stack(numeric, 1), atol=1e-7)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_caffe_gradient_equals_that_of_the_released_layer(m: int, training: bool) -> None:
    """The reference is a NumPy transcription of the layer's backward pass, below the softmax loss."""
    head = head_of(m, classes=6, features=4, base=3.0, gamma=0.0, lambda_min=0.5, gradient="caffe").train(training)
    x = (2 * torch.randn(40, 4, dtype=torch.float64)).requires_grad_()
    labels = torch.arange(40) % 6
    w = F.normalize(head.weight.detach(), dim=1).numpy()
    logits = head.logits(x, labels)
    F.cross_entropy(logits, labels).backward()

    targets, samples = labels.numpy(), np.arange(40)
    features = x.detach().numpy()
    top = np.exp(logits.detach().numpy())
    top /= top.sum(1, keepdims=True)
    top[samples, targets] -= 1
    top /= 40
    assert head.weight.grad is not None and x.grad is not None
    np.testing.assert_allclose(head.weight.grad.numpy(), top.T @ features, atol=1e-14)
    expected = top @ w
    if m > 1:
        length = np.linalg.norm(features, axis=1)
        cw, cx = caffe_coefficients((features * w[targets]).sum(1) / length, length, m)
        margin = (cw[:, None] * w[targets] + cx[:, None] * features) / np.sqrt(cw**2 + cx**2)[:, None]
        expected += top[samples, targets, None] * ((3 * w[targets] + margin) / (1 + 3) - w[targets])
    np.testing.assert_allclose(x.grad.numpy(), expected, atol=1e-14)


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_both_gradients_have_the_same_logits(m: int) -> None:
    x, labels = torch.randn(20, 3, dtype=torch.float64), torch.arange(20) % 5
    assert torch.equal(head_of(m).logits(x, labels), head_of(m, gradient="caffe").logits(x, labels))


def test_second_derivative_of_the_weight_is_refused_in_training() -> None:
    head, labels = ASoftmax(3, 4), torch.tensor([0, 1])
    (grad,) = torch.autograd.grad(head.loss(torch.randn(2, 3), labels), head.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_wrong_gradient_is_refused() -> None:
    with pytest.raises(ValueError, match="gradient of ASoftmax must be one of exact, caffe, not right"):
        ASoftmax(2, 2, gradient="right")  # type: ignore[arg-type]
