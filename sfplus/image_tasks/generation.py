"""Image generation: training a generator against a discriminator as MHE-GAN does, and generating images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.nn import functional as F

from sfplus.device import Device
from sfplus.errors import DatasetError, WeightsError
from sfplus.hypersphere import hyperspherical_energy
from sfplus.image_tasks.datasets import SmallImages
from sfplus.image_tasks.gan import SIDE, Discriminator, Generator, log_energy
from sfplus.io.files import write_atomically
from sfplus.io.json_files import read_json
from sfplus.networks.normalize import normalize_images
from sfplus.recipes.settings.generate import GenerateSettings
from sfplus.training.batch_norm import synchronise_batch_norm
from sfplus.training.distributed import ProcessGroup
from sfplus.training.engine import Row, Task
from sfplus.training.optimizer import create_optimizer
from sfplus.training.sampling import draw_indices
from sfplus.weights import CONFIG, MODEL
from sfplus.weights.model_folder import assign_tensors, load_tensors, to_bytes

NETWORK = "mhe-gan-generator"


class _Config(BaseModel):
    """The config.json of a generator."""

    network: Literal["mhe-gan-generator"]
    width: float = Field(gt=0, le=16)
    noise_size: int = Field(gt=0, le=65536)


class GanTask(Task):
    """The training of MHE-GAN (MHE, MHE-GAN/sn-model/train.py); see `Task`.

    A step is an update of the generator on softplus(-D(G(z))), then `n_dis` updates of the discriminator on
    softplus(D(G(z))) + softplus(-D(x)) plus the energy of all its layers, each with new noise z and new images x.
    The original adds the energy once for generated and once for real images, so that it counts twice. Each network
    has its own Adam; in the original both share one step counter, so that its first few thousand steps are up to 1.4
    times as long.

    A row has both losses, `mhe_loss` (the energy's contribution to the loss; None if its weight is 0), `energy` (the
    mean over the convolutions of the mean of log(1/z) over pairs of filters), `energy.<layer>`, the accuracy of the
    discriminator, and the norms of both gradients.

    With several processes batch normalisation covers all of them on GPUs, and the share of each on CPUs.

    Args:
        generator: generator with its initial weights.
        discriminator: discriminator with its initial weights.
        images: the training set, 32x32 RGB.
        settings: settings of the run.
        processes: processes of the run.
        digest: digest of everything that decides the result.

    Raises:
        DatasetError: If the images have another size.
    """

    unit = "images"
    remedy = "use a smaller base_lr, spectral_norm or a smaller energy.weight"
    averaged = ("generator_loss", "discriminator_loss")

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        images: SmallImages,
        settings: GenerateSettings,
        processes: ProcessGroup,
        digest: str,
    ) -> None:
        if images.images.shape[1:] != (SIDE, SIDE, 3):
            what = f"the images are {tuple(images.images.shape[1:])}, the networks take ({SIDE}, {SIDE}, 3)"
            raise DatasetError(what, where="data", remedy="use images of that size, such as CIFAR-10's")
        self.generator, self.discriminator, self.images = generator, discriminator, images
        self.settings, self.processes, self.digest = settings, processes, digest
        self.modules = nn.ModuleDict({"generator": generator, "discriminator": discriminator})
        synchronise_batch_norm(self.modules, processes, settings.batch_size, unit=self.unit)
        betas = (settings.beta1, settings.beta2)
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: create_optimizer("adam", module.parameters(), lr=settings.base_lr, betas=betas)
            for name, module in self.modules.items()
        }
        self.precision = processes.device.precision(settings.precision, fp16=False)  # there is no gradient scaler
        # Each network averages its own gradients; it is used as it is where it passes on those of the other one.
        self.trained = {name: processes.prepare(module) for name, module in self.modules.items()}

    def batch(self, step: int, share: slice) -> tuple[Tensor, ...]:
        """Return the real images of a step, uint8 (n_dis, B, 32, 32, 3)."""
        size, n_dis, seed = self.settings.batch_size, self.settings.n_dis, self.settings.seed
        updates = range((step - 1) * n_dis + 1, step * n_dis + 1)
        indices = [draw_indices(update, len(self.images), size, seed)[share] for update in updates]
        return (torch.stack([self.images.batch(part) for part in indices]),)

    def update(self, step: int, batch: tuple[Tensor, ...], measure: bool) -> Row | None:
        """Update the generator once and the discriminator `n_dis` times."""
        loss, norm = self._update_generator(batch[0].shape[1], measure)
        row: Row = {}
        for real in batch[0]:
            row = self._update_discriminator(real, measure)
        return {"generator_loss": loss, **row, "generator_gradient": norm} if measure else None

    def _update_generator(self, count: int, measure: bool) -> tuple[Tensor, Tensor | None]:
        self.discriminator.requires_grad_(False)
        with self.processes.device.autocast(self.precision):
            logits = self.discriminator(self._generate(count, self.trained["generator"]))
        loss = F.softplus(-logits.float()).mean()
        norm = self._descend("generator", loss, measure)
        self.discriminator.requires_grad_(True)
        return loss, norm

    def _update_discriminator(self, real: Tensor, measure: bool) -> Row:
        with self.processes.device.autocast(self.precision):
            with torch.no_grad():
                fake = self._generate(len(real), self.generator)
            logits = self.trained["discriminator"](torch.cat([fake, normalize_for_gan(real).to(fake.dtype)])).float()
        fake_logits, real_logits = torch.split(logits, len(real))
        loss = (F.softplus(fake_logits) + F.softplus(-real_logits)).mean()
        mhe_loss, weight = None, self.settings.energy_weight
        if weight:
            energies = [log_energy(filters) for filters in self.discriminator.neurons().values()]
            mhe_loss = 2 * weight * torch.stack(energies).sum()
        row: Row = {"discriminator_loss": loss, "mhe_loss": mhe_loss}
        if measure:
            row["discriminator_accuracy"] = torch.cat([fake_logits < 0, real_logits > 0]).float().mean()
            row |= layer_energies(self.discriminator)
        total = loss if mhe_loss is None else loss + mhe_loss
        row["discriminator_gradient"] = self._descend("discriminator", total, measure)
        return row

    def _generate(self, count: int, generator: nn.Module) -> Tensor:
        noise = torch.randn(count, self.generator.noise_size)
        images: Tensor = generator(self.processes.device.put(noise))
        return images

    def _descend(self, name: str, loss: Tensor, measure: bool) -> Tensor | None:
        parameters = list(self.modules[name].parameters())
        self.optimizers[name].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]) if measure else None
        self.optimizers[name].step()
        torch.clear_autocast_cache()  # else the next pass of this step would compute with the old weights
        return norm

    def describe(self, step: int) -> str:
        """Describe the learning rate and the weight of the energy."""
        return f"learning rate {self.settings.base_lr:.4g}, energy weight {self.settings.energy_weight:.4g}"


@torch.no_grad()
def layer_energies(discriminator: Discriminator) -> dict[str, Tensor]:
    """Return the energies of the layers with several filters.

    Random directions have an energy of -ln(2)/2 = -0.347, or a little more in few dimensions.

    Returns:
        `energy.<layer>`, the mean of log(1/z) over pairs of filters, and `energy`, the mean over these layers.
    """
    filters = {name: rows for name, rows in discriminator.neurons().items() if len(rows) > 1}
    energies = {f"energy.{name}": hyperspherical_energy(rows, power=0) for name, rows in filters.items()}
    return {"energy": torch.stack(list(energies.values())).mean()} | energies


def normalize_for_gan(images: Tensor) -> Tensor:
    """Convert uint8 images (B, 32, 32, 3) to float32 (B, 3, 32, 32) in [-1, 1] (input_helper.py)."""
    return normalize_images(images, scale=127.5)


def draw_noise(count: int, size: int, seed: int) -> Tensor:
    """Draw noise (count, size) from N(0, 1) as a function of the arguments."""
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def generate_images(generator: Generator, noise: Tensor, device: Device, batch_size: int = 64) -> Tensor:
    """Generate images with the moving averages of batch normalisation.

    Args:
        generator: generator on `device`.
        noise: (N, noise_size).
        device: where to compute.
        batch_size: images per pass.

    Returns:
        uint8 (N, 32, 32, 3), on the host.
    """
    training = generator.training
    generator.eval()
    try:
        return torch.cat(list(_generated(generator, noise, device, batch_size)))
    finally:
        generator.train(training)


def _generated(generator: Generator, noise: Tensor, device: Device, batch_size: int) -> Iterator[Tensor]:
    for part in torch.split(noise, batch_size):
        images = generator(device.put(part)).float().add_(1).mul_(127.5).round_().clamp_(0, 255)
        yield images.to(torch.uint8).permute(0, 2, 3, 1).cpu()


def image_grid(images: Tensor, columns: int = 8) -> Tensor:
    """Arrange images (N, H, W, C) in rows of `columns`; the remainder of the last row is black."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    grid = images.new_zeros(rows * columns, height, width, channels)
    grid[:count] = images
    grid = grid.reshape(rows, columns, height, width, channels).transpose(1, 2)
    return grid.reshape(rows * height, columns * width, channels)


def save_generator(folder: Path, generator: Generator, width: float) -> None:
    """Write a generator to an existing folder, as `model.safetensors` and `config.json`."""
    config = {"network": NETWORK, "noise_size": generator.noise_size, "width": width}
    text = json.dumps(config, indent=2, sort_keys=True)
    write_atomically(folder / MODEL, to_bytes(generator.state_dict()))
    write_atomically(folder / CONFIG, text.encode() + b"\n")


def load_generator(folder: Path) -> Generator:
    """Load the generator from a folder of the stage `generate`, in evaluation mode.

    Raises:
        WeightsError: If the folder does not hold a generator.
    """
    remedy = "give a folder of the stage generate"
    config = read_json(folder / CONFIG, _Config, remedy=remedy, error=WeightsError, limit="config_bytes")
    with torch.device("meta"):
        generator = Generator(config.width, config.noise_size)
    assign_tensors(generator, load_tensors(folder / MODEL), NETWORK, folder / MODEL)
    return generator
