"""The key `generate`: training of an image generator (MHE-GAN). Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from sfplus.artifacts.stage import Deferred, Stage
from sfplus.io.import_path import is_import_path
from sfplus.recipes.settings.classify import ClassifySettings
from sfplus.recipes.settings.engine import LoopSettings, StrictSettings
from sfplus.recipes.settings.images import DATA_SETS, ImageDataSettings
from sfplus.recipes.steps import InputReference, PlanRequest, StageKey, Step, StepOutput, UserFile, UserImages


def _check_name(name: str) -> str:
    if name in ("mnist", "files") or not (name in DATA_SETS or is_import_path(name)):
        raise ValueError("use cifar10, cifar100, folder or package.module:name")
    return name


class RealImageSettings(ImageDataSettings):
    """Settings of the set of real images, 32x32 RGB."""

    name: Annotated[str, AfterValidator(_check_name)] = Field(
        default="cifar10",
        description="the data set: cifar10, cifar100; folder: a tree train/<class>, test/<class> of such images; or "
        "package.module:name, code that returns labelled images",
    )
    pad: Literal[0] = Field(default=0, description="images are not shifted (input_helper.py)")
    mirror: Literal[False] = Field(default=False, description="images are not mirrored (input_helper.py)")


class GanEnergySettings(StrictSettings):
    """Settings of the energy in the loss of the discriminator: `image_tasks.gan.log_energy` of every layer."""

    weight: float | None = Field(
        default=None,
        ge=0,
        description="weight of the energy; default: 1e-7 with spectral_norm, 1e-6 without (libs/ops.py)",
    )


class ScoreSettings(StrictSettings):
    """Settings of the scores of the trained generator."""

    samples: int = Field(default=50_000, ge=2, description="number of images to generate (train.py)")
    splits: int = Field(
        default=10, ge=1, description="equal parts of the images, each with its own score (tf_inception.py)"
    )
    seed: int = Field(default=0, ge=0, le=2**63 - 1, description="random seed of the noise")

    @model_validator(mode="after")
    def _check_sample_count(self) -> Self:
        if self.samples < 2 * self.splits:
            raise ValueError(f"samples must be at least twice the splits, not {self.samples} for {self.splits}")
        return self


class GenerateSettings(StageKey, LoopSettings):
    """Settings of training a generator; defaults: MHE, MHE-GAN/sn-model/train.py."""

    stage: ClassVar[Stage] = Stage(
        "generate", 1, Deferred("sfplus.image_tasks.generate_stage:build"), trains=True, measures=True
    )
    for_images: ClassVar[bool] = True

    data: RealImageSettings = Field(default=RealImageSettings(), description="the real images")
    width: float = Field(default=1.0, gt=0, le=16, description="multiplier of the channels of both networks")
    noise_size: int = Field(default=128, ge=1, le=65536, description="dimension of the noise (net.py)")
    spectral_norm: bool = Field(default=True, description="spectral normalisation of the discriminator (sn-model)")
    energy: GanEnergySettings | None = Field(
        default=None, description="energy of the discriminator; None: the baseline without it"
    )
    max_iter: int = Field(default=200_000, ge=1, description="number of steps (train.py)")
    batch_size: int = Field(default=64, ge=1, description="images per update over all processes (train.py)")
    n_dis: int = Field(default=1, ge=1, le=100, description="discriminator updates per generator update (train.py)")
    base_lr: float = Field(default=1e-4, gt=0, description="constant learning rate of both Adam optimizers (train.py)")
    beta1: float = Field(default=0.5, ge=0, lt=1, description="Adam's decay of the mean gradient (train.py)")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="Adam's decay of the mean squared gradient (train.py)")
    precision: Literal["float32", "bf16"] = Field(
        default="float32", description="precision of the forward passes, losses are float32"
    )
    sample_every: int = Field(
        default=1000, ge=1, description="steps between sample grids, which use the same noise (train.py)"
    )
    score_every: int = Field(
        default=0,
        ge=0,
        exclude_if=lambda steps: not steps,  # which keeps the fingerprints of recipes without this key
        description="steps between measurements of the scores, whose best is reported too (train.py: 5000); each keeps "
        "its generator; 0: at the end only",
    )
    scores: ScoreSettings = Field(default=ScoreSettings(), description="the scores")

    inception: Path | None = Field(
        default=None, exclude=True, description="torch-fidelity's weights, for Inception score and FID"
    )

    def plan(self, request: PlanRequest) -> list[Step]:
        """Train the generator and score its images; a classifier in the same recipe gives the surrogate score."""
        inputs: dict[str, InputReference] = {"pictures": UserImages(self.data)}
        if request.find(ClassifySettings):
            inputs["classifier"] = StepOutput("classify")
        if self.inception:
            inputs["inception"] = UserFile(self.inception)
        return [Step("generate", self.stage, self, inputs)]

    @property
    def energy_weight(self) -> float:
        """The weight of the energy; 0 if there is none."""
        if self.energy is None:
            return 0.0
        usual = 1e-7 if self.spectral_norm else 1e-6
        return usual if self.energy.weight is None else self.energy.weight
