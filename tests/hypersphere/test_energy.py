from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thomson import THOMSON

from sfplus.hypersphere import energy as module
from sfplus.hypersphere import hyperspherical_energy
from sfplus.hypersphere.riesz_kernel import SMALLEST_SQUARED_CHORD, Kernel

VARIANTS = [
    {"power": power, "distance": distance, "half_space": half_space, "preset": preset}
    for power in (0.0, 1.0, 2.0, 1.5)
    for distance in ("euclidean", "geodesic")
    for half_space in (False, True)
    for preset in ("exact", "tf1")
]


def least_found(starts: torch.Tensor, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Descend from many random starts at once: (starts, N, d) to the energies reached and where."""
    weight = starts.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight], max_iter=3000, max_eval=6000, tolerance_grad=1e-10, tolerance_change=0, history_size=30,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        total = hyperspherical_energy(weight, **options).sum()
        total.backward()
        return total

    optimizer.step(closure)
    return hyperspherical_energy(weight, **options).detach(), weight.detach()


def one_pair_at_a_time(weight: torch.Tensor, power: float, distance: str, half_space: bool, preset: str) -> float:
    """The formulas of the MHE paper, section 3, and of the TensorFlow code, with Python's own arithmetic."""
    rows = [*weight.tolist(), *(-weight).tolist()] if half_space else weight.tolist()
    terms = []
    extra = 1e-4 if preset == "tf1" else 0.0
    for i, a in enumerate(rows):
        for b in rows[i + 1 :]:
            norms = math.sqrt((math.fsum(x * x for x in a) + extra) * (math.fsum(x * x for x in b) + extra))
            cosine = max(-1.0, min(1.0, math.fsum(x * y for x, y in zip(a, b, strict=True)) / norms))
            if preset == "exact":
                z = math.sqrt(2 - 2 * cosine) if distance == "euclidean" else math.acos(cosine)
                terms.append(-math.log(z) if power == 0 else z**-power)
            elif distance == "euclidean":
                square = 2 - 2 * cosine
                terms.append(-math.log(square) if power == 0 else square ** (-power / 2))
            else:
                t = math.acos(cosine) / math.pi + 1e-4
                terms.append(-math.log(t) if power == 0 else t**-power)
    return math.fsum(terms) / len(terms)


@pytest.mark.parametrize("options", VARIANTS)
def test_equals_the_formula(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(9, 4, dtype=torch.float64)
    energy = hyperspherical_energy(weight, **options)
    assert energy.shape == () and energy.dtype == torch.float64
    exact_opposites = options["half_space"] and options["distance"] == "geodesic"  # these meet the floor at pi
    expected = one_pair_at_a_time(weight, **options)
    assert float(energy) == pytest.approx(expected, rel=1e-6 if exact_opposites else 1e-12)


@pytest.mark.parametrize("options", VARIANTS)
def test_gradients_of_both_orders(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setitem(module._BLOCK, "cpu", 3)
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: hyperspherical_energy(w, **options), weight)
    assert torch.autograd.gradgradcheck(lambda w: hyperspherical_energy(w, **options), weight)


@pytest.mark.parametrize("options", VARIANTS[::3])
def test_blocks_equal_one_block(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    weight = torch.randn(2, 23, 6, dtype=torch.float64, requires_grad=True)
    results = []
    for side in (1024, 23, 7, 5, 1):
        monkeypatch.setitem(module._BLOCK, "cpu", side)
        energy = hyperspherical_energy(weight, **options)
        (gradient,) = torch.autograd.grad(energy.sum(), weight, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), weight)
        results.append([energy, gradient, second])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-9, atol=1e-9)


def test_sets_are_independent_and_equal_dense_autograd() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 2, 40, 8, dtype=torch.float64, requires_grad=True)
    energy = hyperspherical_energy(weight, 1.0)
    unit = torch.nn.functional.normalize(weight, dim=-1)
    dense = torch.stack([torch.pdist(points).reciprocal().mean() for points in unit.flatten(0, 1)]).view(3, 2)
    torch.testing.assert_close(energy, dense)
    factors = torch.randn(3, 2, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad((e * factors).sum(), weight)[0] for e in (energy, dense))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("count", [n for n in THOMSON if n <= 20])
def test_thomson_problem(count: int) -> None:
    torch.manual_seed(count)
    starts = torch.randn(12, count, 3, dtype=torch.float64)
    found, _ = least_found(starts, power=1.0, reduction="sum")
    assert float(found.min()) == pytest.approx(THOMSON[count], rel=1e-6)
    assert (found > THOMSON[count] * (1 - 1e-9)).all(), "nothing lies below the published minimum"


@pytest.mark.slow
@pytest.mark.parametrize("count", [n for n in THOMSON if n > 20])
def test_thomson_problem_of_many_points(count: int) -> None:
    torch.manual_seed(count)
    starts = torch.randn(48, count, 3, dtype=torch.float64)
    found, _ = least_found(starts, power=1.0, reduction="sum")
    assert float(found.min()) == pytest.approx(THOMSON[count], rel=1e-6)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("dimension", [4, 6, 9])
def test_simplex_is_best(dimension: int, power: float) -> None:
    torch.manual_seed(0)
    _, reached = least_found(torch.randn(1, dimension + 1, dimension, dtype=torch.float64), power=power)
    unit = torch.nn.functional.normalize(reached[0], dim=1)
    cosines = (unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool)]
    torch.testing.assert_close(cosines, torch.full_like(cosines, -1 / dimension), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dimension", [4, 5])
def test_cross_polytope_is_best(dimension: int) -> None:
    torch.manual_seed(0)
    found, reached = least_found(torch.randn(6, 2 * dimension, dimension, dtype=torch.float64), power=2.0)
    unit = torch.nn.functional.normalize(reached[found.argmin()], dim=1)
    cosines = (unit @ unit.T).sort(1).values[:, :-1]
    expected = torch.zeros_like(cosines)
    expected[:, 0] = -1
    torch.testing.assert_close(cosines, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("distance", ["euclidean", "geodesic"])
@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_half_space_makes_as_many_neurons_as_dimensions_orthogonal(power: float, distance: str) -> None:
    torch.manual_seed(0)
    starts = torch.randn(4, 6, 6, dtype=torch.float64)
    found, reached = least_found(starts, power=power, distance=distance, half_space=True)
    unit = torch.nn.functional.normalize(reached[found.argmin()], dim=1)
    torch.testing.assert_close(unit @ unit.T, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("power", "expected"), [(0.0, -math.log(2) / 2), (1.0, 2**-0.5), (2.0, 0.5)])
def test_random_directions_in_many_dimensions(power: float, expected: float) -> None:
    torch.manual_seed(0)
    assert float(hyperspherical_energy(torch.randn(500, 4096), power)) == pytest.approx(expected, abs=1e-3)


FILTERS = [27, 576, 576, 576, 1152, 1152, 1152, 2304, 2304, 4096]
COUNTS = [64, 64, 64, 128, 128, 128, 256, 256, 256, 256]
LOGS = {  # at iteration 100 of the logs: sum over the ten hidden layers, and the output layer, weights as logged
    ("0", "euclidean", False): (0.1, -0.6876, -0.6995, 1.0),
    ("1", "euclidean", False): (0.1, 0.7115, 0.7069, 1.0),
    ("2", "euclidean", False): (0.1, 0.5081, 0.5042, 1.0),
    ("0", "geodesic", False): (0.1, 0.6962, 0.6894, 1.0),
    ("1", "geodesic", False): (0.01, 0.2010, 0.2000, 0.1),
    ("2", "geodesic", False): (0.01, 0.4044, 0.3983, 0.1),
    ("0", "euclidean", True): (1.0, -6.8849, -7.0165, 10.0),
    ("1", "euclidean", True): (1.0, 7.0895, 7.0469, 10.0),
    ("2", "euclidean", True): (1.0, 5.0373, 4.9677, 10.0),
    ("0", "geodesic", True): (1.0, 6.9484, 6.8736, 10.0),
    ("1", "geodesic", True): (0.1, 2.0052, 1.9913, 1.0),
    ("2", "geodesic", True): (0.1, 4.0300, 3.9652, 1.0),
}


@pytest.mark.parametrize("case", LOGS)
def test_the_original_logs_at_initialisation(case: tuple[str, str, bool]) -> None:
    """CNN-9 of MHE with its own initialisation, the preset tf1: what the TensorFlow logs say after 100 steps.

    After 100 steps they had moved by about 1 %, mainly in the output layer.
    """
    torch.manual_seed(0)
    power, distance, half_space = case
    hidden_weight, hidden, output, output_weight = LOGS[case]
    options: dict[str, Any] = {"power": float(power), "distance": distance, "preset": "tf1"}
    ours = sum(
        float(hyperspherical_energy(torch.randn(n, d) * (2 / d) ** 0.5, half_space=half_space, **options))
        for n, d in zip(COUNTS, FILTERS, strict=True)
    )
    assert ours * hidden_weight == pytest.approx(hidden, rel=0.015)
    last = float(hyperspherical_energy(torch.randn(100, 256) * (2 / 256) ** 0.5, **options))
    assert last * output_weight == pytest.approx(output, rel=0.025)


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_duplicates_opposites_and_zeros_stay_finite(options: dict[str, Any], dtype: torch.dtype) -> None:
    rows = [[1.0, 0, 0], [1.0, 0, 0], [-1.0, 0, 0], [1.0, 1e-5, 0], [-1.0, 1e-8, 0], [0, 0, 0], [0, 3e4, 3e4]]
    weight = torch.tensor(rows, dtype=dtype, requires_grad=True)
    energy = hyperspherical_energy(weight, **options)
    energy.backward()
    assert energy.isfinite() and energy.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", ["euclidean", "geodesic"])
def test_floor_is_where_the_text_says(distance: str, dtype: torch.dtype) -> None:
    floor = SMALLEST_SQUARED_CHORD[dtype]
    kernel = Kernel(2.0, distance)
    value, slope, curvature = kernel.derivatives(torch.tensor([1.0, 1 - floor / 4, 1 - 2 * floor], dtype=dtype), 2)
    assert value[0] == value[1] == pytest.approx(1 / floor, rel=0.1) and value[2] < value[1] / 3
    assert not slope[:2].any() and not curvature[:2].any() and slope[2] > 0 and curvature[2] > 0


@pytest.mark.parametrize("dimension", [3, 200, 576, 4608, 21504])
@pytest.mark.parametrize("value", [1.0, 0.037, 3.3, None])
def test_equal_directions_have_no_gradient(dimension: int, value: float | None) -> None:
    """Neither do the roundings of a product in float32 push them apart."""
    torch.manual_seed(0)
    row = torch.randn(1, dimension) if value is None else torch.full((1, dimension), value)
    weight = row.repeat(8, 1).requires_grad_()
    energy = hyperspherical_energy(weight)
    energy.backward()
    assert weight.grad is not None and not weight.grad.any() and energy.detach() == pytest.approx(1e5)


@pytest.mark.parametrize("scale", [1e-22, 1e-5, 1e20])
def test_rows_of_any_norm(scale: float) -> None:
    weight = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    expected = hyperspherical_energy(weight)
    torch.testing.assert_close(hyperspherical_energy(weight * scale), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float32, 10), (torch.float64, 40)])
@pytest.mark.parametrize("distance", ["euclidean", "geodesic"])
def test_largest_power_is_finite_and_a_larger_one_refused(distance: Any, dtype: torch.dtype, largest: int) -> None:
    weight = torch.tensor([[1.0, 0], [1, 0], [1, 4e-3], [0, 1]], dtype=dtype, requires_grad=True)
    energy = hyperspherical_energy(weight, largest, distance, half_space=True)
    (gradient,) = torch.autograd.grad(energy, weight, create_graph=True)
    (second,) = torch.autograd.grad(gradient[0, 0], weight)
    assert energy.isfinite() and gradient.isfinite().all() and second.isfinite().all()
    with pytest.raises(ValueError, match=f"at most {largest} in"):
        hyperspherical_energy(weight, largest + 1, distance)


def test_zero_rows_have_finite_second_derivatives() -> None:
    weight = torch.tensor([[0.0, 0, 0], [1, 2, 3], [3, 1, 0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(hyperspherical_energy(weight), weight, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), weight)
    assert second.isfinite().all() and second[1:].any()


def test_many_sets_are_taken_a_few_at_a_time() -> None:
    unit = torch.empty(100, 1000, 4)
    for sets, rows, columns in module._blocks(unit):
        assert unit[sets, rows].shape[0] * unit[sets, rows].shape[1] * unit[sets, columns].shape[1] <= 1024**2
    small = list(module._blocks(torch.empty(50, 64, 4)))
    assert len(small) == 1, "small sets go together"


@given(
    count=st.integers(2, 12), dimension=st.integers(2, 8), seed=st.integers(0, 10**6),
    power=st.floats(0, 4), distance=st.sampled_from(["euclidean", "geodesic"]), half_space=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_what_must_not_change_the_energy(
    count: int, dimension: int, seed: int, power: float, distance: str, half_space: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(count, dimension, generator=generator, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator, dtype=torch.float64))
    scale = torch.rand(count, 1, generator=generator, dtype=torch.float64) * 10 + 0.01

    def energy(points: torch.Tensor) -> torch.Tensor:
        return hyperspherical_energy(points, power, distance, half_space)  # type: ignore[arg-type]

    expected = energy(weight)
    others = [weight @ rotation, weight * scale, weight[torch.randperm(count, generator=generator)]]
    if half_space:
        others.append(weight * torch.randn(count, 1, generator=generator, dtype=torch.float64).sign())
    for other in others:
        torch.testing.assert_close(energy(other), expected, rtol=1e-6, atol=1e-9)
    if half_space:
        full = hyperspherical_energy(torch.cat([weight, -weight]), power, distance)  # type: ignore[arg-type]
        torch.testing.assert_close(full, expected, rtol=1e-6, atol=1e-9)


def test_no_matrix_of_all_pairs_exists() -> None:
    """12,000 directions would need 576 MB for it; the process is given 250 MB over what torch itself takes."""
    script = """
import resource, torch
from sfplus.hypersphere import hyperspherical_energy
torch.set_num_threads(1)
weight = torch.randn(12000, 8, requires_grad=True)
hyperspherical_energy(weight[:64]).backward()
taken = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (taken + 250_000_000, -1))
hyperspherical_energy(weight).backward()
print(weight.grad.isfinite().all().item())
"""
    if sys.platform != "linux":
        pytest.skip("needs Linux's limits of memory")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize("half_space", [False, True])
def test_compiles_into_one_graph(half_space: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(30, 5, requires_grad=True)

    def loss(w: torch.Tensor) -> torch.Tensor:
        return hyperspherical_energy(w, 1.0, half_space=half_space).square()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(weight), loss(weight))
    for expected, result in zip(*[torch.autograd.grad(f(weight), weight) for f in (loss, compiled)], strict=True):
        torch.testing.assert_close(result, expected)


def test_stays_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    weight = torch.randn(50, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        energy = hyperspherical_energy(weight, 1.0)
    assert energy.dtype == torch.float32 and torch.equal(energy, hyperspherical_energy(weight, 1.0))


def test_sum_is_mean_times_pairs() -> None:
    weight = torch.randn(7, 3, dtype=torch.float64)
    for half_space, pairs in ((False, 21), (True, 91)):
        mean = hyperspherical_energy(weight, 1.0, half_space=half_space)
        total = hyperspherical_energy(weight, 1.0, half_space=half_space, reduction="sum")
        torch.testing.assert_close(total, mean * pairs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("options", VARIANTS[::5])
def test_gpu_equals_cpu(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    results = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        weight = torch.randn(5000, 32).to(device).requires_grad_()
        energy = hyperspherical_energy(weight, **options)
        results.append([energy.cpu(), torch.autograd.grad(energy, weight)[0].cpu()])
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((1, 4), {}, "N of 2 or more"),
        ((4,), {}, "N of 2 or more"),
        ((3, 1, 4), {}, "N of 2 or more"),
        ((3, 4), {"power": -1}, "0 or more"),
        ((3, 4), {"power": math.nan}, "0 or more"),
        ((3, 4), {"power": math.inf}, "0 or more"),
        ((3, 4), {"distance": "cosine"}, "euclidean or geodesic"),
        ((3, 4), {"preset": "tf2"}, "exact or tf1"),
        ((3, 4), {"reduction": "mean"}, "mean_pairs or sum"),
    ],
)
def test_refuses_what_has_no_energy(shape: tuple[int, ...], options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        hyperspherical_energy(torch.ones(shape), **options)
