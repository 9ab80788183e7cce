from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from slow_cases import mostly_slow

from sfplus.hypersphere import class_energy
from sfplus.hypersphere.class_energy import distinct
from sfplus.hypersphere.riesz_kernel import SMALLEST_SQUARED_CHORD


def energy_of_pairs(weight: torch.Tensor, labels: list[int], power: float) -> float:
    """Evaluate the formula of the MHE paper, section 5.2, pair by pair."""
    rows = [row / row.norm() for row in weight]
    total = 0.0
    for label in labels:
        for second in range(len(rows)):
            if second != label:
                distance = float((rows[label] - rows[second]).norm())
                total += math.log(1 / distance) if power == 0 else distance**-power
    return total / (len(labels) * (len(rows) - 1))


@pytest.mark.parametrize("power", [0, 1, 2, 0.5, 3])
def test_equals_the_double_sum_of_the_paper(power: float, device: torch.device, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(7, 4, dtype=dtype)
    labels = [3, 1, 3, 6, 3]
    energy = class_energy(weight.to(device), torch.tensor(labels, device=device), power)
    assert energy.shape == () and energy.dtype == dtype and energy.device.type == device.type
    expected = energy_of_pairs(weight, labels, power)
    assert float(energy) == pytest.approx(expected, rel=1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("labels", [[3, 1, 3, 6, 3], [0], [2, 2], [5, 0, 5, 1, 2, 6, 3, 4, 4, 0], list(range(7))])
@pytest.mark.parametrize("mode", ["paper", "batch"])
def test_without_reading_labels_value_and_gradient_are_the_same(
    mode: Any, labels: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU repeated labels have a count of 0, because their number is not known to the program."""
    torch.manual_seed(0)
    weight, chosen = torch.randn(7, 4, dtype=torch.float64, requires_grad=True), torch.tensor(labels)
    results = []
    for reads in (True, False):
        monkeypatch.setattr(
            sys.modules["sfplus.hypersphere.class_energy"], "_reads_labels", lambda _, reads=reads: reads
        )
        anchors, counts = distinct(chosen, 7)
        assert counts.sum() == len(labels) and sorted(anchors[counts > 0].tolist()) == sorted(set(labels))
        energy = class_energy(weight, chosen, mode=mode)
        (gradient,) = torch.autograd.grad(energy, weight, create_graph=True)
        results.append([energy, gradient, torch.autograd.grad(gradient.square().sum(), weight)[0]])
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("mode", mostly_slow(["paper", "batch", "caffe"], ["paper"]))
def test_compiles_without_breaks(mode: Any) -> None:
    weight, labels = torch.randn(7, 4, dtype=torch.float64, requires_grad=True), torch.tensor([3, 1, 3, 6])
    compiled = torch.compile(class_energy, backend="aot_eager", fullgraph=True)
    results = []
    for function in (class_energy, compiled):
        energy = function(weight, labels, mode=mode)
        results.append([energy, *torch.autograd.grad(energy, weight)])
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize(("power", "expected"), [(0, -math.log(2) / 2), (1, 2**-0.5), (2, 0.5)])
def test_random_classifiers_have_the_limit_of_many_dimensions(power: int, expected: float) -> None:
    torch.manual_seed(0)
    energy = class_energy(torch.randn(1000, 512), torch.arange(256), power)
    assert float(energy) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("power", [0, 1, 2, 1.5])
def test_first_and_second_gradients_are_exact(power: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 2, 2, 4])
    assert torch.autograd.gradcheck(lambda w: class_energy(w, labels, power), weight)
    assert torch.autograd.gradgradcheck(lambda w: class_energy(w, labels, power), weight)


@pytest.mark.parametrize("power", [0, 1, 2])
def test_norm_of_rows_has_no_effect(power: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 8, dtype=torch.float64)
    scales = torch.tensor([[1e-3], [1], [5], [0.1], [100], [2]], dtype=torch.float64)
    labels = torch.arange(6)
    torch.testing.assert_close(class_energy(weight, labels, power), class_energy(weight * scales, labels, power))


@pytest.mark.parametrize("power", [0, 1, 2])
@pytest.mark.parametrize("gap", [0.0, 1e-7, 1e-4])
def test_equal_classifiers_give_finite_results(power: int, gap: float) -> None:
    weight = torch.tensor([[1.0, 0.0], [1.0, gap], [0.0, 1.0], [0.0, 0.0]], requires_grad=True)
    energy = class_energy(weight, torch.tensor([0, 1]), power)
    energy.backward()
    floor = SMALLEST_SQUARED_CHORD[torch.float32]
    worst = {0: -0.5 * math.log(floor), 1: floor**-0.5, 2: 1 / floor}
    assert float(energy) <= worst[power]
    assert weight.grad is not None and weight.grad.isfinite().all()


def test_repeated_labels_count_with_their_frequency() -> None:
    torch.manual_seed(0)
    weight = torch.randn(9, 5, dtype=torch.float64)
    once = [class_energy(weight, torch.tensor([label]), 2) for label in (4, 7)]
    torch.testing.assert_close(class_energy(weight, torch.tensor([4, 7, 4, 4]), 2), (3 * once[0] + once[1]) / 4)


def test_mean_over_parts_of_a_batch_is_the_energy_of_the_batch() -> None:
    """Distributed training relies on this."""
    torch.manual_seed(0)
    weight, labels = torch.randn(9, 5), torch.tensor([1, 1, 2, 8, 1, 0])
    halves = (class_energy(weight, labels[:3], 2) + class_energy(weight, labels[3:], 2)) / 2
    torch.testing.assert_close(class_energy(weight, labels, 2), halves)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_stays_in_float32_under_autocast(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, labels = torch.randn(50, 64).to(dtype), torch.arange(20)
    expected = class_energy(weight.double(), labels, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        energy = class_energy(weight, labels, 2)
    assert energy.dtype == torch.float32
    torch.testing.assert_close(energy.double(), expected, rtol=1e-5, atol=0)


def test_gradient_pushes_close_classifiers_apart() -> None:
    weight = F.normalize(torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.0]]), dim=1).requires_grad_()
    energy = class_energy(weight, torch.tensor([0]), 2)
    (gradient,) = torch.autograd.grad(energy, weight)
    assert float(class_energy(weight - 0.01 * gradient, torch.tensor([0]), 2)) < float(energy)


@pytest.mark.parametrize(
    ("shape", "labels", "power", "message"),
    [
        ((1, 4), [0], 2, "two classes"),
        ((0, 4), [0], 2, "two classes"),
        ((3, 4), [], 2, "one label"),
        ((3, 4), [0], -1, "0 or more"),
        ((3, 4), [0], math.nan, "0 or more"),
        ((3,), [0], 2, "must be"),
        ((3, 4), [[0]], 2, "must be"),
    ],
)
def test_wrong_arguments_are_refused(shape: tuple[int, ...], labels: list[int], power: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_energy(torch.ones(shape), torch.tensor(labels, dtype=torch.int64), power)


def test_batch_mode_is_the_mean_over_distinct_labels() -> None:
    """OpenSphere's loss, pair by pair."""
    torch.manual_seed(0)
    weight, labels = torch.randn(9, 5, dtype=torch.float64), [4, 1, 4, 8, 0, 1]
    distinct = sorted(set(labels))
    terms = []
    for position, i in enumerate(distinct):
        for j in distinct[position + 1 :]:
            cosine = float(weight[i] @ weight[j] / (weight[i].norm() * weight[j].norm()))
            terms.append(math.acos(cosine) ** -2)
    energy = class_energy(weight, torch.tensor(labels), mode="batch")
    assert float(energy) == pytest.approx(sum(terms) / len(terms), rel=1e-12)


def test_batch_mode_clamps_cosines_as_opensphere_does() -> None:
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    energy = class_energy(weight, torch.tensor([0, 1]), mode="batch")
    assert float(energy) == pytest.approx(math.acos(1 - 1e-5) ** -2)  # 5e4 for one pair of equal classifiers
    (gradient,) = torch.autograd.grad(energy, weight)
    assert not gradient.any()


def test_batch_of_one_person_has_energy_zero() -> None:
    weight = torch.randn(4, 3, requires_grad=True)
    energy = class_energy(weight, torch.tensor([2, 2]), mode="batch")
    energy.backward()
    assert float(energy) == 0 and weight.grad is not None and not weight.grad.any()


def test_batch_mode_has_exact_first_and_second_gradients() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 2, 2, 4])
    assert torch.autograd.gradcheck(lambda w: class_energy(w, labels, mode="batch"), weight)
    assert torch.autograd.gradgradcheck(lambda w: class_energy(w, labels, mode="batch"), weight)


def caffe_layer(weight: np.ndarray, labels: list[int], alpha: float) -> tuple[float, np.ndarray]:
    """Transcribe inter_class_layer.cpp, type AMONG with normalize: value and gradient for rows of unit norm."""
    batch, classes = len(labels), len(weight)
    distance = 0.0
    for i in range(classes):
        for y in labels:
            distance += ((weight[i] - weight[y]) ** 2).sum() / classes
    mean = weight.sum(0) / classes
    mean /= np.sqrt((mean**2).sum() + 1e-5)
    gradient = np.zeros_like(weight)
    for y in labels:
        gradient[y] += -4 * alpha / (batch * distance**2 + 1e-5) * (weight[y] - mean)
    return distance, gradient


@pytest.mark.parametrize("alpha", [1.0, 10.0])
def test_caffe_mode_equals_the_cpu_layer(alpha: float) -> None:
    torch.manual_seed(0)
    weight = F.normalize(torch.randn(7, 4, dtype=torch.float64) + 0.5, dim=1).requires_grad_()
    labels = [3, 1, 3, 6]
    value, expected = caffe_layer(weight.detach().numpy(), labels, alpha)
    energy = class_energy(weight, torch.tensor(labels), mode="caffe", alpha=alpha)
    (gradient,) = torch.autograd.grad(energy, weight)
    assert float(energy) == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-10, atol=1e-15)


def test_published_alpha_has_no_effect_in_exact_arithmetic() -> None:
    """10,572 classes, a batch of 256: D = 512 and a push of 1e-6, hundreds of times below the weight decay."""
    torch.manual_seed(0)
    weight = F.normalize(torch.randn(10572, 64), dim=1).requires_grad_()
    energy = class_energy(weight, torch.arange(256), mode="caffe", alpha=10.0)
    (gradient,) = torch.autograd.grad(energy, weight)
    assert float(energy) == pytest.approx(512, rel=1e-2)
    assert 1e-7 < float(gradient.norm(dim=1).max()) < 2e-6, "the weight decay is 5e-4"


def test_weights_of_half_precision_work_in_all_modes_and_unknown_modes_are_refused() -> None:
    weight, labels = torch.randn(5, 3).bfloat16().requires_grad_(), torch.tensor([0, 1])
    for mode in ("paper", "batch", "caffe"):
        energy = class_energy(weight, labels, mode=mode)
        assert energy.dtype == torch.float32
        energy.backward()
    assert weight.grad is not None and weight.grad.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="'papier'"):
        class_energy(weight, labels, mode="papier")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["paper", "batch", "caffe"])
def test_negative_labels_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="negative"):
        class_energy(torch.randn(5, 3), torch.tensor([4, -1]), mode=mode)  # type: ignore[arg-type]


def test_labels_may_have_any_integer_type() -> None:
    weight = torch.randn(5, 3)
    expected = class_energy(weight, torch.tensor([1, 0]))
    for dtype in (torch.uint8, torch.int32, torch.bool):
        assert torch.equal(class_energy(weight, torch.tensor([1, 0]).to(dtype)), expected)
