"""Losses of distillation: closed forms, gradients, precision, features of length 0, wrong shapes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from sfplus.hypersphere import cosine_distillation, relational_distillation

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
both = pytest.mark.parametrize("loss", [cosine_distillation, relational_distillation])


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cosine_is_one_minus_the_mean_cosine() -> None:
    student = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    teacher = torch.tensor([[5.0, 0.0], [0.0, -1.0], [1.0, 1.0]])
    expected = 1 - (1 - 1 + 1 / math.sqrt(2)) / 3
    assert cosine_distillation(student, teacher).item() == pytest.approx(expected, abs=1e-6)
    assert cosine_distillation(student, 7 * student).item() == pytest.approx(0, abs=1e-6)
    assert cosine_distillation(student, -student).item() == pytest.approx(2, abs=1e-6)


def test_relational_compares_the_cosines_of_all_pairs() -> None:
    student, teacher, cosine = draw(5, 4), draw(5, 9, seed=1), torch.cosine_similarity
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    squares = [(cosine(student[i], student[j], 0) - cosine(teacher[i], teacher[j], 0)) ** 2 for i, j in pairs]
    assert relational_distillation(student, teacher).item() == pytest.approx(sum(map(float, squares)) / 20, rel=1e-9)


def test_relational_of_two_crops_has_a_closed_form() -> None:
    """The cosine of a student with 1 radian between its features is compared with a right angle, both ways round."""
    student = torch.tensor([[2.0, 0.0], [math.cos(1), math.sin(1)]])
    assert relational_distillation(student, torch.eye(2, 3)).item() == pytest.approx(math.cos(1) ** 2, rel=1e-6)


def test_relational_is_zero_for_rotated_and_scaled_features() -> None:
    features = draw(6, 4)
    rotation, _ = torch.linalg.qr(draw(4, 4, seed=2))
    assert relational_distillation(3 * features @ rotation, features).item() == pytest.approx(0, abs=1e-12)


@both
def test_gradients_in_float64(loss: Loss) -> None:
    student = draw(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, draw(4, 3, seed=1)), student)


@both
def test_half_precision_and_features_of_length_zero_give_finite_float32(loss: Loss) -> None:
    student = torch.zeros(3, 4, dtype=torch.bfloat16, requires_grad=True)
    result = loss(student, torch.eye(3, 4, dtype=torch.float16))
    result.backward()  # type: ignore[no-untyped-call]
    assert result.dtype == torch.float32 and result.isfinite()
    assert student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("loss", "student", "teacher"),
    [
        (cosine_distillation, (3, 4), (3, 5)),
        (cosine_distillation, (3, 4), (2, 4)),
        (cosine_distillation, (3,), (3,)),
        (relational_distillation, (3, 4), (2, 4)),
        (relational_distillation, (1, 4), (1, 4)),
        (relational_distillation, (2, 2, 2), (2, 2)),
    ],
)
def test_wrong_shapes_are_refused(loss: Loss, student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        loss(torch.ones(student), torch.ones(teacher))
