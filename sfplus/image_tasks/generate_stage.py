"""Stage `generate`: small pictures to a generator of such pictures, its samples, curves and scores.

Its inputs are `pictures`, a `PictureSet`, and, both optional: `classifier`, an artefact of the stage `classify` for the
same set, which gives the surrogate score; `inception`, a file of Inception's weights, which gives the Inception score
and the FID. With other scores, or the weights at last, nothing is trained again.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sfplus.artifacts.artefact import MANIFEST, Artefact
from sfplus.artifacts.context import is_first
from sfplus.artifacts.inputs import InputFile
from sfplus.artifacts.layout import CURVES, SAMPLES
from sfplus.artifacts.settings import deciding_settings
from sfplus.artifacts.stage import Job
from sfplus.image_tasks.image_set import PictureSet
from sfplus.images import encode_image
from sfplus.io.files import digest_json, write_atomically
from sfplus.recipes.settings.generate import GenerateSettings

if TYPE_CHECKING:
    from sfplus.image_tasks.datasets import SmallImages
    from sfplus.image_tasks.gan import Generator

_LEARNT = ("steps", "seconds", "generator_loss", "discriminator_loss", "energy", "mhe_loss")
_GRID = 64  # pictures in a grid (MHE-GAN, train.py)


def build(job: Job[GenerateSettings]) -> dict[str, Any]:
    """Train the generator, or reuse one with the same training, and score its images."""
    from sfplus.image_tasks.datasets import SmallImages

    real, held_out = job.input("pictures", PictureSet).load()
    assert isinstance(real, SmallImages) and isinstance(held_out, SmallImages)  # the settings admit no others
    made = _trained(job)
    generator, counts = _taken(job, made) if made else _train(job, real)
    if not is_first():
        return {}
    return {"pictures": len(real.labels), **counts, **_scores(job, generator, real, held_out)}


def _trained(job: Job[GenerateSettings]) -> Artefact | None:
    """An artefact of the same training with other scores, or none."""
    own = _training(GenerateSettings.stage.identity(job.settings, job.inputs))
    folders = sorted(path.parent for path in job.folder.parent.glob(f"*/{MANIFEST}"))
    found = (made for made in map(Artefact.open, folders) if made and _training(made.manifest) == own)
    return next(found, None)


def _training(identity: Mapping[str, Any]) -> Any:
    settings = {name: value for name, value in identity["settings"].items() if name != "scores"}
    return identity["version"], settings, identity["inputs"]["pictures"]


def _taken(job: Job[GenerateSettings], made: Artefact) -> tuple[Generator, dict[str, float]]:
    """The generator of another artefact, and what its training came to; its files become this one's."""
    from sfplus.image_tasks.generation import load_generator

    if is_first():
        job.context.console.print(f"the generator is that of {made.folder}")
        shutil.copytree(made.folder, job.folder, ignore=shutil.ignore_patterns(MANIFEST), dirs_exist_ok=True)
    generator = load_generator(made.folder)
    job.context.device.move(generator)
    return generator, {name: value for name, value in made.manifest["counts"].items() if name in _LEARNT}


def _train(job: Job[GenerateSettings], real: SmallImages) -> tuple[Generator, dict[str, float]]:
    """A new generator, and what its training came to."""
    import torch

    from sfplus.image_tasks.gan import Discriminator, Generator
    from sfplus.image_tasks.generation import GanTask, save_generator
    from sfplus.training.distributed import Processes
    from sfplus.training.engine import train
    from sfplus.training.history import HISTORY, read_rows

    settings = job.settings
    torch.manual_seed(settings.seed)
    generator = Generator(settings.width, settings.noise_size)
    discriminator = Discriminator(settings.width, settings.spectral_norm)
    processes = Processes(job.context.device)
    task = GanTask(
        generator,
        discriminator,
        real,
        settings,
        processes,
        digest_json([deciding_settings(settings), job.inputs["pictures"].content]),
    )

    def show(done: int, row: dict[str, Any]) -> None:
        note = f"losses {row['generator_loss']:.3f}, {row['discriminator_loss']:.3f}" if row else None
        job.context.progress.update(done, settings.max_iter, "steps", note)
        if done % settings.sample_every == 0:
            _sample(job, generator, f"samples/{done:06d}.png")

    (job.folder / "samples").mkdir(exist_ok=True)
    job.context.device.move(generator)
    if processes.is_first:
        _sample(job, generator, "samples/000000.png")
    counts = train(task, settings, job.folder, processes, show)
    if processes.is_first:
        _sample(job, generator, SAMPLES)
        save_generator(job.folder, generator, settings.width)
        rows = read_rows(job.folder / HISTORY)
        write_atomically(job.folder / CURVES, _curves(rows))
        counts |= {name: rows[-1][name] for name in ("energy", "mhe_loss") if rows[-1][name] is not None}
    return generator, counts


def _sample(job: Job[GenerateSettings], generator: Generator, name: str) -> None:
    """A grid of pictures, of the same noise each time."""
    from sfplus.image_tasks.generation import draw_noise, generate, picture_grid

    noise = draw_noise(_GRID, job.settings.noise_size, job.settings.seed)
    grid = picture_grid(generate(generator, noise, job.context.device))
    write_atomically(job.folder / name, encode_image(grid.numpy(), ".png"))


def _curves(rows: list[dict[str, Any]]) -> bytes:
    from sfplus.reports.curves_plot import curves_plot

    energies = [name for name in rows[-1] if name.startswith("energy.")]
    sides, title = ("generator", "discriminator"), "energy of each layer, mean of log(1/z)"
    panels = {
        "loss": {f"{side}_loss": side for side in sides},
        title: {name: name.partition(".")[2] for name in energies},
        "norm of the gradient": {f"{side}_gradient": side for side in sides},
    }
    return curves_plot(rows, panels, {title: (-math.log(2) / 2, "random")})


def _scores(
    job: Job[GenerateSettings], generator: Generator, real: SmallImages, held_out: SmallImages
) -> dict[str, float]:
    """What the generator's pictures are worth; nothing without a classifier and without Inception."""
    from sfplus.image_tasks.generation import draw_noise, generate
    from sfplus.image_tasks.scores import inception_scores, surrogate_scores

    settings, device = job.settings.scores, job.context.device
    found: dict[str, float] = {}
    if {"classifier", "inception"} & job.inputs.keys():
        noise = draw_noise(settings.samples, generator.noise_size, settings.seed)
        pictures = generate(generator, noise, device)
        if "classifier" in job.inputs:
            found |= surrogate_scores(pictures, held_out, job.input_folder("classifier"), device, settings.splits)
        if "inception" in job.inputs:
            found |= inception_scores(
                pictures, real.images, job.input("inception", InputFile).path, device, settings.splits
            )
    return found
