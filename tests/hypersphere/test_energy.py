from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_cases import mostly_slow, slow
from thomson import THOMSON

from sfplus.hypersphere import energy as module
from sfplus.hypersphere import hyperspherical_energy

VARIANTS = [
    {"power": power, "distance": distance, "half_space": half_space, "preset": preset}
    for power in (0.0, 1.0, 2.0, 1.5)
    for distance in ("euclidean", "geodesic")
    for half_space in (False, True)
    for preset in ("exact", "tf1")
]


def minimise(starts: torch.Tensor, gradient: float = 1e-10, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Minimise the energy from many random starts (starts, N, d), and return the energies and the directions.

    The search ends at this gradient; the error of an energy is about its square.
    """
    weight = starts.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight], max_iter=3000, max_eval=6000, tolerance_grad=gradient, tolerance_change=0, history_size=30,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        total = hyperspherical_energy(weight, **options).sum()
        total.backward()
        return total

    optimizer.step(closure)
    return hyperspherical_energy(weight, **options).detach(), weight.detach()


def energy_of_pairs(weight: torch.Tensor, power: float, distance: str, half_space: bool, preset: str) -> float:
    """Evaluate the formulas of the MHE paper, section 3, or of the TensorFlow code, pair by pair in pure Python."""
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
def test_equals_the_formula_of_the_paper(options: dict[str, Any], device: torch.device, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(9, 4, dtype=dtype)
    energy = hyperspherical_energy(weight.to(device), **options)
    assert energy.shape == () and energy.dtype == dtype and energy.device.type == device.type
    exact_opposites = options["half_space"] and options["distance"] == "geodesic"  # their distance is below the floor
    expected, tolerance = energy_of_pairs(weight, **options), 1e-6 if exact_opposites else 1e-12
    assert float(energy) == pytest.approx(expected, rel=tolerance if dtype == torch.float64 else 1e-3)


@pytest.mark.parametrize("options", mostly_slow(VARIANTS, VARIANTS[::5]))
def test_first_and_second_gradients_are_exact(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setitem(module._BLOCK, "cpu", 3)
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: hyperspherical_energy(w, **options), weight)
    assert torch.autograd.gradgradcheck(lambda w: hyperspherical_energy(w, **options), weight)


@pytest.mark.parametrize("options", mostly_slow(VARIANTS[::3], VARIANTS[::9]))
def test_result_does_not_depend_on_the_size_of_blocks(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    weight = torch.randn(2, 23, 6, dtype=torch.float64, requires_grad=True)
    results = []
    for side in (1024, 23, 7, 5, 1):
        monkeypatch.setitem(module._BLOCK, "cpu", side)
        energy = hyperspherical_energy(weight, **options)
        (gradient,) = torch.autograd.grad(energy.sum(), weight, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), weight)
        results.append([energy, gradient, second])
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", mostly_slow(VARIANTS, VARIANTS[::5]))
def test_few_directions_of_many_dimensions_equal_blocks(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(2, 5, 9, dtype=torch.float64, requires_grad=True)
    assert module._few_cosines(weight, "exact") is not None
    results = []
    for function in (module._few_cosines, lambda *_: None):
        monkeypatch.setattr(module, "_few_cosines", function)
        energy = hyperspherical_energy(weight, **options)
        (gradient,) = torch.autograd.grad(energy.sum(), weight, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), weight)
        results.append([energy, gradient, second])
    torch.testing.assert_close(results[1], results[0], rtol=1e-11, atol=1e-12)


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


@pytest.mark.parametrize("count", mostly_slow((n for n in THOMSON if n <= 20), (4, 7, 12)))
def test_thomson_problem(count: int) -> None:
    torch.manual_seed(count)
    starts = torch.randn(12, count, 3, dtype=torch.float64)
    energies, _ = minimise(starts, gradient=1e-6, power=1.0, reduction="sum")
    assert float(energies.min()) == pytest.approx(THOMSON[count], rel=1e-6)
    assert (energies > THOMSON[count] * (1 - 1e-9)).all(), "no energy is below the published minimum"


@pytest.mark.slow
@pytest.mark.parametrize("count", [n for n in THOMSON if n > 20])
def test_thomson_problem_of_many_points(count: int) -> None:
    torch.manual_seed(count)
    starts = torch.randn(48, count, 3, dtype=torch.float64)
    energies, _ = minimise(starts, gradient=1e-6, power=1.0, reduction="sum")
    assert float(energies.min()) == pytest.approx(THOMSON[count], rel=1e-6)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("dimension", [4, 6, 9])
def test_minimum_of_d_plus_1_directions_is_the_simplex(dimension: int, power: float) -> None:
    torch.manual_seed(0)
    _, reached = minimise(torch.randn(1, dimension + 1, dimension, dtype=torch.float64), power=power)
    unit = torch.nn.functional.normalize(reached[0], dim=1)
    cosines = (unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool)]
    torch.testing.assert_close(cosines, torch.full_like(cosines, -1 / dimension), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dimension", [4, 5])
def test_minimum_of_2d_directions_is_the_cross_polytope(dimension: int) -> None:
    torch.manual_seed(0)
    energies, reached = minimise(torch.randn(6, 2 * dimension, dimension, dtype=torch.float64), power=2.0)
    unit = torch.nn.functional.normalize(reached[energies.argmin()], dim=1)
    cosines = (unit @ unit.T).sort(1).values[:, :-1]
    expected = torch.zeros_like(cosines)
    expected[:, 0] = -1
    torch.testing.assert_close(cosines, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("distance", ["euclidean", "geodesic"])
@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_half_space_minimum_of_d_neurons_is_orthogonal(power: float, distance: str) -> None:
    torch.manual_seed(0)
    starts = torch.randn(4, 6, 6, dtype=torch.float64)
    energies, reached = minimise(starts, power=power, distance=distance, half_space=True)
    unit = torch.nn.functional.normalize(reached[energies.argmin()], dim=1)
    torch.testing.assert_close(unit @ unit.T, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("power", "expected"), [(0.0, -math.log(2) / 2), (1.0, 2**-0.5), (2.0, 0.5)])
def test_random_directions_have_the_limit_of_many_dimensions(power: float, expected: float) -> None:
    torch.manual_seed(0)
    assert float(hyperspherical_energy(torch.randn(500, 4096), power)) == pytest.approx(expected, abs=1e-3)


FILTERS = [27, 576, 576, 576, 1152, 1152, 1152, 2304, 2304, 4096]
COUNTS = [64, 64, 64, 128, 128, 128, 256, 256, 256, 256]
LOGS = {  # iteration 100 of the logs: sum over the ten hidden layers, and output layer, with the logged weights
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
def test_energies_at_initialisation_are_those_of_the_original_logs(case: tuple[str, str, bool]) -> None:
    """CNN-9 of MHE at initialisation with the preset tf1 has the energies of the TensorFlow logs after 100 steps.

    In these 100 steps the energies change by about 1 %, mainly in the output layer.
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
@pytest.mark.parametrize("dtype", [torch.float32, slow(torch.float64), slow(torch.bfloat16), torch.float16])
def test_duplicates_opposites_and_zeros_stay_finite(options: dict[str, Any], dtype: torch.dtype) -> None:
    rows = [[1.0, 0, 0], [1.0, 0, 0], [-1.0, 0, 0], [1.0, 1e-5, 0], [-1.0, 1e-8, 0], [0, 0, 0], [0, 3e4, 3e4]]
    weight = torch.tensor(rows, dtype=dtype, requires_grad=True)
    energy = hyperspherical_energy(weight, **options)
    energy.backward()
    assert energy.isfinite() and energy.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.dtype == dtype


@pytest.mark.parametrize("dimension", [3, 200, 576, 4608, 21504])
@pytest.mark.parametrize("value", [1.0, 0.037, 3.3, None])
def test_equal_directions_have_no_gradient(dimension: int, value: float | None) -> None:
    """Rounding errors of float32 products do not push them apart either."""
    torch.manual_seed(0)
    row = torch.randn(1, dimension) if value is None else torch.full((1, dimension), value)
    weight = row.repeat(8, 1).requires_grad_()
    energy = hyperspherical_energy(weight)
    energy.backward()
    assert weight.grad is not None and not weight.grad.any() and energy.detach() == pytest.approx(1e5)


@pytest.mark.parametrize("scale", [1e-22, 1e-5, 1e20])
@pytest.mark.parametrize("shape", [(5, 3), (5, 7)])
def test_norm_of_rows_has_no_effect(shape: tuple[int, int], scale: float) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = hyperspherical_energy(weight)
    torch.testing.assert_close(hyperspherical_energy(weight * scale), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float32, 10), (torch.float64, 40)])
@pytest.mark.parametrize("distance", ["euclidean", "geodesic"])
def test_largest_power_is_finite_and_larger_ones_are_refused(distance: Any, dtype: torch.dtype, largest: int) -> None:
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


def test_blocks_limit_the_pairs_of_many_sets() -> None:
    unit = torch.empty(100, 1000, 4)
    for sets, rows, columns in module._blocks(unit):
        assert unit[sets, rows].shape[0] * unit[sets, rows].shape[1] * unit[sets, columns].shape[1] <= 1024**2
    small = list(module._blocks(torch.empty(20, 64, 4)))
    assert len(small) == 1, "small sets share a block"


@given(
    count=st.integers(2, 12), dimension=st.integers(2, 8), seed=st.integers(0, 10**6),
    power=st.floats(0, 4), distance=st.sampled_from(["euclidean", "geodesic"]), half_space=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_energy_is_invariant_to_rotation_scale_order_and_sign(
    count: int, dimension: int, seed: int, power: float, distance: str, half_space: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(count, dimension, generator=generator, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator, dtype=torch.float64))
    scale = torch.rand(count, 1, generator=generator, dtype=torch.float64) * 10 + 0.01

    def energy(points: torch.Tensor) -> torch.Tensor:
        return hyperspherical_energy(points, power, distance, half_space)  # type: ignore[arg-type]

    expected = energy(weight)
    variants = [weight @ rotation, weight * scale, weight[torch.randperm(count, generator=generator)]]
    if half_space:
        variants.append(weight * torch.randn(count, 1, generator=generator, dtype=torch.float64).sign())
    for variant in variants:
        torch.testing.assert_close(energy(variant), expected, rtol=1e-6, atol=1e-9)
    if half_space:
        full = hyperspherical_energy(torch.cat([weight, -weight]), power, distance)  # type: ignore[arg-type]
        torch.testing.assert_close(full, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_memory_is_less_than_a_matrix_of_all_pairs() -> None:
    """Such a matrix of 12,000 directions has 576 MB; the process may allocate 250 MB more than torch itself."""
    script = """
import resource, torch
from sfplus.hypersphere import hyperspherical_energy
torch.set_num_threads(1)
weight = torch.randn(12000, 8, requires_grad=True)
hyperspherical_energy(weight[:64]).backward()
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 250_000_000, -1))
hyperspherical_energy(weight).backward()
print(weight.grad.isfinite().all().item())
"""
    if sys.platform != "linux":
        pytest.skip("needs the memory limits of Linux")
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert process.stdout.strip() == "True", process.stderr


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
    weight = torch.randn(50, 64, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        energy = hyperspherical_energy(weight, 1.0)
        (gradient,) = torch.autograd.grad(energy, weight)
    expected = hyperspherical_energy(weight, 1.0)
    assert energy.dtype == torch.float32 and torch.equal(energy, expected)
    assert torch.equal(gradient, torch.autograd.grad(expected, weight)[0])


def test_sum_is_the_mean_times_the_number_of_pairs() -> None:
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
    ("shape", "options", "message"),
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
def test_wrong_arguments_are_refused(shape: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hyperspherical_energy(torch.ones(shape), **options)
