"""Time a step of the four variants of MHE-GAN, and of the baseline as a plain loop; ratios of medians.

The plain loop runs the discriminator on generated and on real images in turn.
Run on an idle machine: python tests/benchmarks/gan.py
"""

from __future__ import annotations

import functools

import torch
from racing import race
from torch.nn import functional as F

from sfplus.device import choose_device
from sfplus.image_tasks.datasets import SmallImages
from sfplus.image_tasks.gan import Discriminator, Generator
from sfplus.image_tasks.generation import GanTask, normalize_for_gan
from sfplus.recipes.settings.generate import GenerateSettings
from sfplus.training.distributed import ProcessGroup

ROUNDS = 7
VARIANTS = {
    "baseline": {"spectral_norm": False},
    "spectral normalisation": {},
    "MHE": {"spectral_norm": False, "energy": {}},
    "both": {"energy": {}},
}


def step(task: GanTask) -> None:
    task.update(1, tuple(map(task.processes.device.put, task.batch(1, slice(0, task.settings.batch_size)))), False)


def plain_step(task: GanTask) -> None:
    generator, discriminator, count = task.generator, task.discriminator, task.settings.batch_size
    device = task.processes.device
    loss = F.softplus(-discriminator(generator(device.put(torch.randn(count, 128))))).mean()
    task.optimizers["generator"].zero_grad()
    loss.backward()
    task.optimizers["generator"].step()
    fake = generator(device.put(torch.randn(count, 128))).detach()
    real = normalize_for_gan(device.put(task.batch(1, slice(0, count))[0][0]))
    loss = F.softplus(discriminator(fake)).mean() + F.softplus(-discriminator(real)).mean()
    task.optimizers["discriminator"].zero_grad()
    loss.backward()
    task.optimizers["discriminator"].step()


def main() -> None:
    device = choose_device()
    images = SmallImages(torch.randint(0, 256, (640, 32, 32, 3), dtype=torch.uint8), torch.zeros(640).long(), ("a",))
    print(f"{device.describe()}, batch 64, float32; median of {ROUNDS} rounds")
    for width in (0.25, 1.0):
        runs = {}
        for name, changes in {**VARIANTS, "baseline, plain loop": VARIANTS["baseline"]}.items():
            settings = GenerateSettings.model_validate({"width": width, **changes})
            networks = Generator(width), Discriminator(width, settings.spectral_norm)
            task = GanTask(*networks, images, settings, ProcessGroup(device), "")
            device.move(task.modules).train()
            runs[name] = functools.partial(plain_step if "plain" in name else step, task)
        times = race(runs, ROUNDS)
        print(f"  width {width:g}")
        for name, seconds in times.items():
            print(f"    {name:<24} {1000 * seconds:7.0f} ms  {seconds / times['baseline']:5.2f} x")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
