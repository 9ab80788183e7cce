"""The training of MHE-GAN: its steps, its rows, exact resuming; generated images."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from slow_cases import mostly_slow
from torch import Tensor

from sfplus.device import choose_device
from sfplus.errors import DatasetError, TrainingError, WeightsError
from sfplus.image_tasks.datasets import SmallImages
from sfplus.image_tasks.gan import Discriminator, Generator, log_energy
from sfplus.image_tasks.generation import (
    GanTask,
    draw_noise,
    generate_images,
    image_grid,
    load_generator,
    normalize_for_gan,
    save_generator,
)
from sfplus.recipes.settings.generate import GenerateSettings
from sfplus.training.distributed import ProcessGroup
from sfplus.training.engine import OnStep, train
from sfplus.training.sampling import draw_indices

CPU = choose_device("cpu")
WIDTH = 1 / 32
VARIANTS = {
    "baseline": {"spectral_norm": False},
    "sn": {},
    "mhe": {"spectral_norm": False, "energy": {}},
    "sn+mhe": {"energy": {}},
}


@pytest.fixture(scope="module")
def images() -> SmallImages:
    images = torch.randint(0, 256, (20, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return SmallImages(images, torch.arange(20) % 10, tuple("abcdefghij"))


def task_of(images: SmallImages, **changes: Any) -> GanTask:
    changes = {"width": WIDTH, "batch_size": 8, "max_iter": 6, "log_every": 2, "checkpoint_every": 2, **changes}
    settings = GenerateSettings.model_validate(changes)
    torch.manual_seed(settings.seed)
    networks = Generator(settings.width, settings.noise_size), Discriminator(settings.width, settings.spectral_norm)
    return GanTask(*networks, images, settings, ProcessGroup(CPU), settings.model_dump_json())


def run(
    images: SmallImages, folder: Path, on_step: OnStep | None = None, **changes: Any
) -> tuple[dict[str, Tensor], dict[str, float]]:
    task = task_of(images, **changes)
    summary = train(task, task.settings, folder, task.processes, on_step)
    return task.modules.state_dict(), summary


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("n_dis", [1, 2])
def test_gan_steps_match_a_plain_loop(images: SmallImages, n_dis: int) -> None:
    """Compare with the original's updates on the same noise: generator first, then discriminator."""
    changes = {"energy": {"weight": 0.3}, "n_dis": n_dis, "base_lr": 1e-3}
    ours, plain = task_of(images, **changes), task_of(images, **changes)
    generator, discriminator = plain.generator, plain.discriminator
    adams = [torch.optim.Adam(part.parameters(), 1e-3, (0.5, 0.999)) for part in (generator, discriminator)]
    for step in (1, 2, 3):
        torch.manual_seed(step)
        row = ours.update(step, ours.batch(step, slice(0, 8)), measure=True)
        torch.manual_seed(step)
        g_loss = torch.log1p(torch.exp(-discriminator(generator(torch.randn(8, 128))))).mean()
        g_gradients = torch.autograd.grad(g_loss, list(generator.parameters()))
        _descend(adams[0], g_gradients)
        for part in range(n_dis):
            real = images.images[draw_indices((step - 1) * n_dis + part + 1, 20, 8, 0)]
            fake = generator(torch.randn(8, 128)).detach()
            fake_logits = discriminator(fake)
            discriminator.eval()  # keeps the estimate of the singular value
            real_logits = discriminator((real.permute(0, 3, 1, 2).float() - 127.5) / 127.5)
            discriminator.train()
            d_loss = torch.log1p(torch.exp(fake_logits)).mean() + torch.log1p(torch.exp(-real_logits)).mean()
            once = sum(log_energy(filters) for filters in discriminator.neurons().values())
            gradients = torch.autograd.grad(d_loss + 0.3 * once + 0.3 * once, list(discriminator.parameters()))
            _descend(adams[1], gradients)
        assert row is not None
        for name, value in {"generator_loss": g_loss, "discriminator_loss": d_loss, "mhe_loss": 0.6 * once}.items():
            torch.testing.assert_close(row[name], value, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(row["generator_gradient"], torch.stack([g.norm() for g in g_gradients]).norm())
    for name, tensor in plain.modules.state_dict().items():
        if name not in {f"generator.dc{stage}.bias" for stage in (1, 2, 3)}:  # batch normalisation removes its effect
            torch.testing.assert_close(ours.modules.state_dict()[name], tensor, rtol=1e-3, atol=2e-5, msg=name)


def _descend(adam: torch.optim.Adam, gradients: tuple[Tensor, ...]) -> None:
    for parameter, gradient in zip(adam.param_groups[0]["params"], gradients, strict=True):
        parameter.grad = gradient
    adam.step()


@pytest.mark.parametrize("variant", VARIANTS)
def test_first_row_of_a_gan(images: SmallImages, tmp_path: Path, variant: str) -> None:
    """Compare with the expected values of an untrained discriminator and of random filters."""
    _, summary = run(images, tmp_path, max_iter=1, width=0.25, **VARIANTS[variant])
    (row,) = rows_of(tmp_path)
    assert row["generator_loss"] == pytest.approx(math.log(2), abs=0.05)
    assert row["discriminator_loss"] == pytest.approx(2 * math.log(2), abs=0.1)
    assert row["energy"] == pytest.approx(-math.log(2) / 2, abs=0.01)
    layers = [name for name, _ in Discriminator.layers]
    assert [name for name in row if name.startswith("energy.")] == [f"energy.{name}" for name in layers]
    weight = {"mhe": 1e-6, "sn+mhe": 1e-7}.get(variant)
    if weight is None:
        assert row["mhe_loss"] is None
    else:  # (N + 1)/(2N) ln(10^4) - (N - 1)/N ln(2)/2 for each N, and the last layer's constant
        sizes = [16, 32, 32, 64, 64, 128, 128]
        energy = sum((n + 1) / (2 * n) * math.log(1e4) - (n - 1) / n * math.log(2) / 2 for n in sizes) + math.log(1e4)
        assert row["mhe_loss"] == pytest.approx(2 * weight * energy, rel=2e-3)
    assert row["generator_gradient"] > 0 and row["discriminator_gradient"] > 0
    assert summary["generator_loss"] == row["generator_loss"]


@pytest.mark.slow
def test_a_large_energy_weight_lowers_the_energy(images: SmallImages, tmp_path: Path) -> None:
    last = {}
    for weight in (0, 10):
        folder = tmp_path / str(weight)
        run(images, folder, max_iter=20, log_every=20, checkpoint_every=20, base_lr=1e-3, energy={"weight": weight})
        last[weight] = rows_of(folder)[-1]["energy"]
    assert last[10] < last[0] - 0.005


@pytest.mark.parametrize("variant", mostly_slow(VARIANTS, ["sn+mhe"]))
def test_interrupted_gan_ends_with_the_same_bits(images: SmallImages, tmp_path: Path, variant: str) -> None:
    """Stop after step 3, one step past a checkpoint, and again after step 5."""
    whole, summary = run(images, tmp_path / "whole", **VARIANTS[variant])
    for stop in (3, 5):

        def on_step(step: int, row: dict[str, Any], stop: int = stop) -> None:
            if step == stop:
                raise RuntimeError("stopped")

        with pytest.raises(RuntimeError, match="stopped"):
            run(images, tmp_path / "parts", on_step, **VARIANTS[variant])
    parts, resumed = run(images, tmp_path / "parts", **VARIANTS[variant])
    assert whole.keys() == parts.keys() and all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    assert (tmp_path / "whole/history.jsonl").read_bytes() == (tmp_path / "parts/history.jsonl").read_bytes()
    assert {**summary, "seconds": 0} == {**resumed, "seconds": 0}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_gan_inside_an_autocast_of_the_program_is_not_changed(
    precision: str, images: SmallImages, tmp_path: Path
) -> None:
    options = {"precision": precision, "energy": {}, "spectral_norm": False, "n_dis": 2, "max_iter": 2}
    expected, _ = run(images, tmp_path / "alone", **options)
    plain = task_of(images, **options)
    CPU.move(plain.modules).train()
    for step in (1, 2):  # as the engine does, without a context around
        torch.manual_seed(int(np.random.SeedSequence((2, 0, step, 0)).generate_state(1, np.uint64)[0]))
        plain.update(step, plain.batch(step, slice(0, 8)), measure=step == 2)
    with torch.autocast("cpu", torch.bfloat16):
        inside, _ = run(images, tmp_path / "inside", **options)
    for state in (plain.modules.state_dict(), inside):
        assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


def test_non_finite_gan_loss_is_named(images: SmallImages, tmp_path: Path) -> None:
    task = task_of(images, log_every=1, energy={})
    with torch.no_grad():
        task.discriminator.get_parameter("c1_0.bias").fill_(torch.inf)
    message = r"generator loss is (nan|inf) at step 1 \(learning rate 0.0001, energy weight 1e-07\); use a smaller"
    with pytest.raises(TrainingError, match=message):
        train(task, task.settings, tmp_path, task.processes)


def test_images_of_another_size_are_refused(images: SmallImages) -> None:
    small = SmallImages(images.images[:, :28, :28], images.labels, images.names)
    with pytest.raises(DatasetError, match=r"\(28, 28, 3\), the networks take \(32, 32, 3\)"):
        task_of(small)


def test_generation_uses_moving_averages_and_changes_no_state(images: SmallImages) -> None:
    torch.manual_seed(0)
    generator = Generator(WIDTH, 16)
    noise = draw_noise(5, 16, 3)
    assert torch.equal(noise, draw_noise(5, 16, 3)) and not torch.equal(noise, draw_noise(5, 16, 4))
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    generated = generate_images(generator, noise, CPU, batch_size=2)
    assert generator.training and all(torch.equal(before[k], v) for k, v in generator.state_dict().items())
    assert generated.dtype == torch.uint8 and generated.shape == (5, 32, 32, 3)
    with torch.no_grad():
        expected = generator.eval()(noise)
    assert float((normalize_for_gan(generated) - expected).abs().max()) <= 0.51 / 127.5
    assert torch.equal(
        normalize_for_gan(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1)).flatten(), torch.tensor([-1.0, 1])
    )


def test_image_grid_is_filled_row_by_row() -> None:
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 2, 3, 3)
    grid = image_grid(images, columns=3)
    assert grid.shape == (4, 9, 3)
    assert torch.equal(grid[::2, ::3, 0], torch.tensor([[0, 1, 2], [3, 4, 0]], dtype=torch.uint8))


def test_generators_are_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator, noise = Generator(WIDTH, 16), draw_noise(3, 16, 0)
    generator(torch.randn(4, 16))  # changes the moving averages
    save_generator(tmp_path, generator, WIDTH)
    loaded = load_generator(tmp_path)
    assert not loaded.training and torch.equal(
        generate_images(loaded, noise, CPU), generate_images(generator, noise, CPU)
    )
    sound = '{"network": "mhe-gan-generator", "width": 1, "noise_size": 16}'
    for old, new in (("mhe-gan-generator", "cnn9"), ("16", "0"), ("16", "1e9"), ("1,", "NaN,"), (sound, "[" * 9999)):
        (tmp_path / "config.json").write_text(sound.replace(old, new, 1))
        with pytest.raises(WeightsError, match=r"config\.json: is damaged .*; give a folder of the stage generate"):
            load_generator(tmp_path)


def test_energy_weights_are_the_released_ones() -> None:
    weights = {name: GenerateSettings.model_validate(changes).energy_weight for name, changes in VARIANTS.items()}
    assert weights == {"baseline": 0, "sn": 0, "mhe": 1e-6, "sn+mhe": 1e-7}
    assert GenerateSettings(energy={"weight": 0.5}).energy_weight == 0.5  # type: ignore[arg-type]
