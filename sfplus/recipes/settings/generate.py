"""The settings of generators of pictures, with their sources. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from sfplus.artifacts.stage import Stage, deferred
from sfplus.recipes.settings.engine import LoopSettings, StrictSettings
from sfplus.recipes.settings.images import ImageDataSettings
from sfplus.recipes.steps import InputReference, PlanRequest, StageKey, Step, StepOutput, UserFile, UserImages


class RealImageSettings(ImageDataSettings):
    """A set of pictures to imitate, 32x32 RGB."""

    name: Literal["cifar10", "cifar100", "folder"] = Field(
        default="cifar10", description="the set; folder: any tree train/<class>, test/<class> of such pictures"
    )
    pad: Literal[0] = Field(default=0, description="pictures are not moved (input_helper.py)")
    mirror: Literal[False] = Field(default=False, description="nor mirrored (input_helper.py)")


class GanEnergySettings(StrictSettings):
    """The energy that MHE-GAN adds to the discriminator's loss: `networks.gan.log_energy` of every layer."""

    weight: float | None = Field(
        default=None,
        ge=0,
        description="its factor; where not given 1e-7 with spectral_norm and 1e-6 without (libs/ops.py)",
    )


class ScoreSettings(StrictSettings):
    """What is measured once the generator is trained."""

    samples: int = Field(default=50_000, ge=2, description="pictures to generate (train.py)")
    splits: int = Field(default=10, ge=1, description="equal parts of them, each with its own score (tf_inception.py)")
    seed: int = Field(default=0, ge=0, le=2**63 - 1, description="of their noise")

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.samples < 2 * self.splits:
            raise ValueError(f"samples must be at least twice the splits, not {self.samples} for {self.splits}")
        return self


class GenerateSettings(StageKey, LoopSettings):
    """Settings of training a generator; defaults: MHE, MHE-GAN/sn-model/train.py."""

    stage: ClassVar[Stage] = Stage(
        "generate", 1, deferred("sfplus.image_tasks.generate_stage:build"), trains=True, measures=True
    )
    for_images: ClassVar[bool] = True

    data: RealImageSettings = Field(default=RealImageSettings(), description="the pictures")
    width: float = Field(default=1.0, gt=0, le=16, description="multiplier of the maps of both networks")
    noise_size: int = Field(default=128, ge=1, le=65536, description="length of the noise (net.py)")
    spectral_norm: bool = Field(default=True, description="spectral normalisation of the discriminator (sn-model)")
    energy: GanEnergySettings | None = Field(
        default=None, description="energy of the discriminator; none for the baseline"
    )
    max_iter: int = Field(default=200_000, ge=1, description="number of steps (train.py)")
    batch_size: int = Field(default=64, ge=1, description="pictures per update over all processes (train.py)")
    n_dis: int = Field(
        default=1, ge=1, le=100, description="updates of the discriminator for each of the generator (train.py)"
    )
    base_lr: float = Field(default=1e-4, gt=0, description="learning rate of both Adams, it does not fall (train.py)")
    beta1: float = Field(default=0.5, ge=0, lt=1, description="Adam's decay of the mean gradient (train.py)")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="Adam's decay of the mean squared gradient (train.py)")
    precision: Literal["float32", "bf16"] = Field(
        default="float32", description="of the networks' passes, the losses are float32"
    )
    sample_every: int = Field(default=1000, ge=1, description="steps between grids of samples of one noise (train.py)")
    scores: ScoreSettings = Field(default=ScoreSettings(), description="what is measured at the end")

    inception: Path | None = Field(
        default=None, exclude=True, description="torch-fidelity's weights, for Inception score and FID"
    )

    def plan(self, request: PlanRequest) -> list[Step]:
        """Train the generator and score its images; a classifier in the same recipe gives the surrogate score."""
        inputs: dict[str, InputReference] = {"pictures": UserImages(self.data)}
        if request.recipe.classify:
            inputs["classifier"] = StepOutput("classify")
        if self.inception:
            inputs["inception"] = UserFile(self.inception)
        return [Step("generate", self.stage, self, inputs)]

    @property
    def energy_weight(self) -> float:
        """The factor of the energy; 0 without."""
        if self.energy is None:
            return 0.0
        usual = 1e-7 if self.spectral_norm else 1e-6
        return usual if self.energy.weight is None else self.energy.weight
