"""Stage `generate`: train a generator of small images, and write samples, curves and scores.

Its inputs are `pictures`, an `ImageSet`, and two optional ones: `classifier`, an artefact of the stage `classify` for
the same dataset, for the surrogate score; `inception`, a file of Inception's weights, for the Inception score and the
FID. The scores are those of the generators that the training has kept, so if only the scores change, or Inception's
weights are added, an existing training is reused.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from typing import Any

import torch

from sfplus.artifacts.artefact import MANIFEST, Artefact
from sfplus.artifacts.cache import open_earlier
from sfplus.artifacts.context import is_first
from sfplus.artifacts.inputs import InputFile
from sfplus.artifacts.layout import CURVES, GENERATORS, SAMPLES, SCORE_ROWS
from sfplus.artifacts.settings import deciding_settings
from sfplus.artifacts.stage import Job
from sfplus.image_tasks.datasets import SmallImages
from sfplus.image_tasks.gan import Discriminator, Generator
from sfplus.image_tasks.generation import (
    NETWORK,
    GanTask,
    draw_noise,
    generate_images,
    image_grid,
    load_generator,
    save_generator,
)
from sfplus.image_tasks.image_set import ImageSet
from sfplus.image_tasks.scores import inception_scores, surrogate_scores
from sfplus.images import encode_image
from sfplus.io.files import digest_json, write_atomically
from sfplus.io.loggers import get_logger
from sfplus.io.tables import write_json_lines
from sfplus.recipes.settings.generate import GenerateSettings
from sfplus.reports.curves_plot import curves_plot
from sfplus.training.distributed import ProcessGroup
from sfplus.training.engine import train
from sfplus.training.history import HISTORY, read_rows
from sfplus.weights.model_folder import assign_tensors, load_tensors, to_bytes

_log = get_logger(__name__)

_TRAINING_COUNTS = ("steps", "seconds", "generator_loss", "discriminator_loss", "energy", "mhe_loss")
_HIGHER_IS_BETTER = ("surrogate_score", "inception_score")
_GRID = 64  # images in a grid (MHE-GAN, train.py)


def build(job: Job[GenerateSettings]) -> dict[str, Any]:
    """Train the generator, or reuse one with the same training, and score its images."""
    real, held_out = job.input("pictures", ImageSet).load()
    assert isinstance(real, SmallImages) and isinstance(held_out, SmallImages)  # ensured by the settings
    trained = _find_trained(job)
    generator, counts = _reuse(job, trained) if trained else _train(job, real)
    if not is_first():
        return {}
    return {"images": len(real.labels), **counts, **_scores(job, generator, real, held_out)}


def _find_trained(job: Job[GenerateSettings]) -> Artefact | None:
    """Return an artefact of the same training with other scores, if there is one."""
    training = _training(GenerateSettings.stage.identity(job.settings, job.inputs))
    folders = sorted(path.parent for path in job.folder.parent.glob(f"*/{MANIFEST}"))
    artefacts = filter(None, map(open_earlier, folders))
    return next((artefact for artefact in artefacts if _training(artefact.manifest) == training), None)


def _training(identity: Mapping[str, Any]) -> Any:
    """Return the part of an identity that decides the generator."""
    settings = {name: value for name, value in identity["settings"].items() if name != "scores"}
    return identity["version"], settings, identity["inputs"]["pictures"]


def _reuse(job: Job[GenerateSettings], trained: Artefact) -> tuple[Generator, dict[str, float]]:
    """Copy the files of another artefact and return its generator and the counts of its training."""
    if is_first():
        _log.info("the generator is reused from %s", trained.folder)
        shutil.copytree(trained.folder, job.folder, ignore=shutil.ignore_patterns(MANIFEST), dirs_exist_ok=True)
    generator = load_generator(trained.folder)
    job.context.device.move(generator)
    return generator, {name: value for name, value in trained.manifest["counts"].items() if name in _TRAINING_COUNTS}


def _train(job: Job[GenerateSettings], real: SmallImages) -> tuple[Generator, dict[str, float]]:
    """Train a generator and return it with the counts of its training."""
    settings = job.settings
    torch.manual_seed(settings.seed)
    generator = Generator(settings.width, settings.noise_size)
    discriminator = Discriminator(settings.width, settings.spectral_norm)
    processes = ProcessGroup(job.context.device)
    digest = digest_json([deciding_settings(settings), job.inputs["pictures"].content])
    task = GanTask(generator, discriminator, real, settings, processes, digest)

    def on_step(step: int, row: dict[str, Any]) -> None:
        note = f"losses {row['generator_loss']:.3f}, {row['discriminator_loss']:.3f}" if row else None
        job.context.progress.update(step, settings.max_iter, "steps", note)
        if step % settings.sample_every == 0:
            _write_samples(job, generator, f"samples/{step:06d}.png")
        if settings.score_every and step % settings.score_every == 0 and step < settings.max_iter:
            write_atomically(job.folder / GENERATORS / f"{step:06d}.safetensors", to_bytes(generator.state_dict()))

    for folder in ("samples", GENERATORS):
        (job.folder / folder).mkdir(exist_ok=True)
    job.context.device.move(generator)
    if processes.is_first:
        _write_samples(job, generator, "samples/000000.png")
    job.context.log_precision(settings.precision, fp16=False)
    counts = train(task, settings, job.folder, processes, on_step)
    if processes.is_first:
        _write_samples(job, generator, SAMPLES)
        save_generator(job.folder, generator, settings.width)
        rows = read_rows(job.folder / HISTORY)
        write_atomically(job.folder / CURVES, _curves(rows))
        counts |= {name: rows[-1][name] for name in ("energy", "mhe_loss") if rows[-1][name] is not None}
    return generator, counts


def _write_samples(job: Job[GenerateSettings], generator: Generator, name: str) -> None:
    """Write a grid of images, from the same noise at each call."""
    noise = draw_noise(_GRID, job.settings.noise_size, job.settings.seed)
    grid = image_grid(generate_images(generator, noise, job.context.device))
    write_atomically(job.folder / name, encode_image(grid.numpy(), ".png"))


def _curves(rows: list[dict[str, Any]]) -> bytes:
    """Plot losses, energies and gradient norms."""
    energies = [name for name in rows[-1] if name.startswith("energy.")]
    networks, title = ("generator", "discriminator"), "energy of each layer, mean of log(1/z)"
    panels = {
        "loss": {f"{network}_loss": network for network in networks},
        title: {name: name.partition(".")[2] for name in energies},
        "norm of the gradient": {f"{network}_gradient": network for network in networks},
    }
    return curves_plot(rows, panels, {title: (-math.log(2) / 2, "random")})


def _scores(
    job: Job[GenerateSettings], generator: Generator, real: SmallImages, held_out: SmallImages
) -> dict[str, float]:
    """Return the scores of generated images, and the best of all kept generators (train.py).

    There are none without a classifier and without Inception.
    """
    if not {"classifier", "inception"} & job.inputs.keys():
        return {}
    rows: list[dict[str, float]] = []
    earlier = load_generator(job.folder)
    for file in sorted((job.folder / GENERATORS).glob("*.safetensors")):
        assign_tensors(earlier, load_tensors(file), NETWORK, file)  # on the CPU
        job.context.device.move(earlier)
        rows.append({"step": int(file.stem)} | _measure(job, earlier, None, held_out))
    scores = _measure(job, generator, real, held_out)
    if rows:
        rows.append({"step": job.settings.max_iter} | scores)
        write_json_lines(job.folder / SCORE_ROWS, rows)
        for name in [name for name in _HIGHER_IS_BETTER if name in scores]:
            scores[f"best_{name}"] = max(row[name] for row in rows)
    return scores


def _measure(
    job: Job[GenerateSettings], generator: Generator, real: SmallImages | None, held_out: SmallImages
) -> dict[str, float]:
    """Return the scores of one generator; without real images no FID."""
    settings, device = job.settings.scores, job.context.device
    noise = draw_noise(settings.samples, generator.noise_size, settings.seed)
    images = generate_images(generator, noise, device)
    scores: dict[str, float] = {}
    if "classifier" in job.inputs:
        scores |= surrogate_scores(images, held_out, job.input_folder("classifier"), device, settings.splits)
    if "inception" in job.inputs:
        inception = job.input("inception", InputFile).path
        of_real = None if real is None else real.images
        scores |= inception_scores(images, of_real, inception, device, settings.splits)
    return scores
