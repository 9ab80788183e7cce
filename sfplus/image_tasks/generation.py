"""Training a generator against a discriminator as MHE-GAN does, and drawing pictures from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfplus.device import Device
from sfplus.errors import DatasetError, WeightsError
from sfplus.hypersphere import hyperspherical_energy
from sfplus.image_tasks.datasets import SmallImages
from sfplus.image_tasks.gan import SIDE, Discriminator, Generator, log_energy
from sfplus.io.files import write_atomically
from sfplus.networks.normalize import normalize_images
from sfplus.recipes.settings.generate import GeneratorSettings
from sfplus.training.batch_norm import normalised_together
from sfplus.training.distributed import Processes
from sfplus.training.engine import Row, Task
from sfplus.training.sampling import draw_indices
from sfplus.weights import CONFIG, MODEL
from sfplus.weights.model_folder import assign_tensors, load_tensors, to_bytes

NETWORK = "mhe-gan-generator"


class GanTask(Task):
    """The steps of MHE-GAN (MHE, MHE-GAN/sn-model/train.py), for `engine.train`.

    A step is an update of the generator on softplus(-D(G(z))), then `n_dis` updates of the discriminator on
    softplus(D(G(z))) + softplus(-D(x)) and the energy of all its layers, each with noise z and pictures x of its own.
    The original adds the energy once for generated and once for real pictures, so that it counts twice. Each network
    has its Adam; there one counter of steps serves both, so that its first thousands are up to 1.4 times as long.

    A row has both losses, `mhe_loss` (what the energy adds to the loss; None where its weight is 0), `energy` (the mean
    over the convolutions of the mean of log(1/z) over pairs of filters), `energy.<layer>`, how often the discriminator
    is right, and the norms of both gradients.

    With several processes batch normalisation is over all of them on GPUs, over the share of each on CPUs.

    Args:
        generator: with its starting weights.
        discriminator: with its starting weights.
        pictures: to learn from, 32x32 RGB.
        settings: of the run.
        processes: of the run.
        digest: of all that decides the result.

    Raises:
        DatasetError: the pictures are of another size.
    """

    unit = "pictures"
    remedy = "use a smaller base_lr, spectral_norm or a smaller energy.weight"
    averaged = ("generator_loss", "discriminator_loss")

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        pictures: SmallImages,
        settings: GeneratorSettings,
        processes: Processes,
        digest: str,
    ) -> None:
        if pictures.images.shape[1:] != (SIDE, SIDE, 3):
            what = f"pictures are {tuple(pictures.images.shape[1:])}, the networks take ({SIDE}, {SIDE}, 3)"
            raise DatasetError(what, where="data", remedy="use pictures of that size, such as CIFAR-10's")
        self.generator, self.discriminator, self.pictures = generator, discriminator, pictures
        self.settings, self.processes, self.digest = settings, processes, digest
        self.modules = nn.ModuleDict({"generator": generator, "discriminator": discriminator})
        normalised_together(self.modules, processes, settings.batch_size, unit=self.unit)
        options: Any = {"lr": settings.base_lr, "betas": (settings.beta1, settings.beta2), "fused": True}
        self.adams = {name: torch.optim.Adam(part.parameters(), **options) for name, part in self.modules.items()}
        self.optimizers = self.adams

    def batch(self, step: int, share: slice) -> tuple[Tensor, ...]:
        """The real pictures of a step: uint8 (n_dis, B, 32, 32, 3)."""
        size, each, seed = self.settings.batch_size, self.settings.n_dis, self.settings.seed
        numbers = range((step - 1) * each + 1, step * each + 1)
        drawn = [draw_indices(number, len(self.pictures), size, seed)[share] for number in numbers]
        return (torch.stack([self.pictures.batch(indices) for indices in drawn]),)

    def update(self, step: int, batch: tuple[Tensor, ...], measure: bool) -> Row | None:
        """One update of the generator, `n_dis` of the discriminator."""
        loss, length = self._update_generator(batch[0].shape[1], measure)
        row: Row = {}
        for real in batch[0]:
            row = self._update_discriminator(real, measure)
        return {"generator_loss": loss, **row, "generator_gradient": length} if measure else None

    def _update_generator(self, count: int, measure: bool) -> tuple[Tensor, Tensor | None]:
        self.discriminator.requires_grad_(False)
        with self.processes.device.autocast(self.settings.precision):
            logits = self.discriminator(self._generate(count))
        loss = F.softplus(-logits.float()).mean()
        length = self._descend("generator", loss, measure)
        self.discriminator.requires_grad_(True)
        return loss, length

    def _update_discriminator(self, real: Tensor, measure: bool) -> Row:
        with self.processes.device.autocast(self.settings.precision):
            with torch.no_grad():
                fake = self._generate(len(real))
            logits = self.discriminator(torch.cat([fake, to_gan(real).to(fake.dtype)])).float()
        of_fake, of_real = torch.split(logits, len(real))
        loss = (F.softplus(of_fake) + F.softplus(-of_real)).mean()
        mhe_loss, weight = None, self.settings.energy_weight
        if weight:
            energies = [log_energy(filters) for filters in self.discriminator.neurons().values()]
            mhe_loss = 2 * weight * torch.stack(energies).sum()
        row: Row = {"discriminator_loss": loss, "mhe_loss": mhe_loss}
        if measure:
            row["discriminator_accuracy"] = torch.cat([of_fake < 0, of_real > 0]).float().mean()
            row |= layer_energies(self.discriminator)
        total = loss if mhe_loss is None else loss + mhe_loss
        row["discriminator_gradient"] = self._descend("discriminator", total, measure)
        return row

    def _generate(self, count: int) -> Tensor:
        noise = torch.randn(count, self.generator.noise_size)
        pictures: Tensor = self.generator(self.processes.device.put(noise))
        return pictures

    def _descend(self, name: str, loss: Tensor, measure: bool) -> Tensor | None:
        parameters = list(self.modules[name].parameters())
        self.adams[name].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.processes.average_gradients(parameters)
        length = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]) if measure else None
        self.adams[name].step()
        return length

    def describe(self, step: int) -> str:
        """What the message about values that are not finite says of the run."""
        return f"learning rate {self.settings.base_lr:.4g}, energy weight {self.settings.energy_weight:.4g}"


@torch.no_grad()
def layer_energies(discriminator: Discriminator) -> dict[str, Tensor]:
    """`energy.<layer>`, the mean of log(1/z) over pairs of filters, and `energy`, the mean over these layers.

    Random directions have -ln(2)/2, which is -0.347, or a little more in few dimensions.
    """
    filters = {name: found for name, found in discriminator.neurons().items() if len(found) > 1}
    energies = {f"energy.{name}": hyperspherical_energy(found, power=0) for name, found in filters.items()}
    return {"energy": torch.stack(list(energies.values())).mean()} | energies


def to_gan(pictures: Tensor) -> Tensor:
    """Pictures as the networks take them: uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [-1, 1] (input_helper.py)."""
    return normalize_images(pictures, scale=127.5)


def draw_noise(count: int, size: int, seed: int) -> Tensor:
    """Noise (count, size) that is a function of its arguments."""
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def generate(generator: Generator, noise: Tensor, device: Device, batch_size: int = 64) -> Tensor:
    """Pictures of noise (N, noise_size), by the running statistics of the batch normalisation: uint8 (N, 32, 32, 3)."""
    training = generator.training
    generator.eval()
    try:
        return torch.cat(list(_generated(generator, noise, device, batch_size)))
    finally:
        generator.train(training)


def _generated(generator: Generator, noise: Tensor, device: Device, batch_size: int) -> Iterator[Tensor]:
    for part in torch.split(noise, batch_size):
        pictures = generator(device.put(part)).float().add_(1).mul_(127.5).round_().clamp_(0, 255)
        yield pictures.to(torch.uint8).permute(0, 2, 3, 1).cpu()


def picture_grid(pictures: Tensor, columns: int = 8) -> Tensor:
    """Pictures (N, H, W, C) side by side, in rows of `columns`; what is left of the last row is black."""
    count, height, width, channels = pictures.shape
    rows = -(-count // columns)
    grid = pictures.new_zeros(rows * columns, height, width, channels)
    grid[:count] = pictures
    grid = grid.reshape(rows, columns, height, width, channels).transpose(1, 2)
    return grid.reshape(rows * height, columns * width, channels)


def save_generator(folder: Path, generator: Generator, width: float) -> None:
    """Write a generator to a folder that is there, as `model.safetensors` and `config.json`."""
    config = {"network": NETWORK, "noise_size": generator.noise_size, "width": width}
    text = json.dumps(config, indent=2, sort_keys=True)
    write_atomically(folder / MODEL, to_bytes(generator.state_dict()))
    write_atomically(folder / CONFIG, text.encode() + b"\n")


def load_generator(folder: Path) -> Generator:
    """The generator in a folder that the stage `generate` wrote, in evaluation mode.

    Raises:
        WeightsError: there is none.
    """
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        width, size = float(config["width"]), int(config["noise_size"])
        if config["network"] != NETWORK or not 0 < width <= 16 or not 0 < size <= 65536:
            raise ValueError(f"it describes {config['network']}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"does not describe a generator ({error})"
        raise WeightsError(
            reason, where=folder / CONFIG, remedy="give a folder that the stage generate wrote"
        ) from None
    with torch.device("meta"):
        generator = Generator(width, size)
    assign_tensors(generator, load_tensors(folder / MODEL), NETWORK, folder / MODEL)
    return generator
