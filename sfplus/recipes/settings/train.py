"""The settings of training, with their sources. Imports no torch, so that recipes can be checked at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from sfplus.artifacts.layout import TRAIN_PHOTOS
from sfplus.artifacts.stage import Stage, deferred
from sfplus.datasets.formats.pack import is_pack
from sfplus.datasets.identities import read_person_list
from sfplus.recipes.settings.align import crop_steps
from sfplus.recipes.settings.engine import LoopSettings, StrictSettings, check_rising
from sfplus.recipes.settings.heads import HeadSettings, validate_head
from sfplus.recipes.steps import InputReference, PlanRequest, StageKey, Step, StepOutput, UserPack, UserPhotos


def _read_people(value: Any) -> Any:
    """Read people that a recipe gives as the file that lists them."""
    return read_person_list(Path(value)) if isinstance(value, str) else value


People = Annotated[tuple[str, ...], BeforeValidator(_read_people)]


class EnergySettings(StrictSettings):
    """The hyperspherical energy that SphereFace+ adds to the loss."""

    mode: Literal["paper", "batch", "caffe"] = Field(
        default="paper",
        description="paper: the batch's classifiers against all others (MHE paper, sections 3.6 and 5.2); batch: among "
        "the people of the batch (OpenSphere: power 2, weight 0.1); caffe: the push of the released layer",
    )
    power: float = Field(
        default=2.0,
        ge=0,
        le=10,
        description="s of the energy 1/z^s; 0 is log(1/z) (MHE paper: 0, 1, 2); none in mode caffe",
    )
    weight: float = Field(
        default=1.0,
        ge=0,
        description="lambda_M, the factor of the energy; in mode caffe the alpha of the prototxt, "
        "which in exact arithmetic does nothing at 10; tune it anew",
    )


class SolverSettings(LoopSettings):
    """How a network is trained; defaults: sphereface_solver.prototxt and sphereface_model.prototxt on two GPUs."""

    head: Annotated[HeadSettings, BeforeValidator(validate_head)] = Field(
        default=validate_head({}), description="the classifier and its margin; name: one of hypersphere.HEADS"
    )
    energy: EnergySettings | None = Field(default=None, description="the energy of SphereFace+; none for SphereFace")
    classes: Literal["replicated", "sharded"] = Field(
        default="replicated", description="whether each process has all classifiers or its share, as for 10^5 people"
    )
    sample_rate: float = Field(
        default=1.0, gt=0, le=1, description="sharded: share of the other people in each step (Partial FC)"
    )
    base_lr: float = Field(default=0.1, gt=0, description="learning rate at the start (solver)")
    schedule: Literal["multistep", "cosine", "poly"] = Field(
        default="multistep", description="how the rate falls: at steps (solver), as half a cosine, or as a power of "
        "what is left (Caffe's poly); the last two reach 0 after the last step"
    )  # fmt: skip
    steps: tuple[int, ...] = Field(
        default=(16000, 24000, 28000), description="multistep: after this many steps the rate falls (solver)"
    )
    lr_gamma: float = Field(default=0.1, gt=0, le=1, description="multistep: factor of each fall (solver)")
    lr_power: float = Field(default=1.0, gt=0, description="poly: the power")
    warmup: int = Field(default=0, ge=0, description="steps in which the rate rises from 0 to base_lr, in a line")
    max_iter: int = Field(default=28000, ge=1, description="number of steps (solver)")
    epochs: int | None = Field(
        default=None, ge=1, description="passes over the crops, in place of max_iter; steps and warmup are epochs then"
    )
    batch_size: int = Field(default=512, ge=1, description="crops per step over all processes (256 per GPU, two GPUs)")
    accumulate: int = Field(
        default=1, ge=1, description="passes that a batch is computed in, to save memory (iter_size); the counters of "
        "classifiers count batches, not passes as in Caffe"
    )  # fmt: skip
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD (solver)")
    weight_decay: float = Field(default=5e-4, ge=0, description="weight decay, none on biases (solver)")
    clip: float | None = Field(default=None, gt=0, description="what longer gradients, over all weights, are cut to")
    ema: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="decay of a running average of the weights, which is then the model; 0: none",
    )
    mirror: bool = Field(default=True, description="mirror half of the crops at random (prototxt)")
    augment: float = Field(
        default=0.0, ge=0, le=2, description="strength of random turns, scales, shifts, light and grey; small sets of "
        "people need it; 0: none, as the originals"
    )  # fmt: skip
    sampler: Literal["shuffle", "balanced", "people"] = Field(
        default="shuffle", description="shuffle: all crops in turn (prototxt); balanced: per_person crops of each of "
        "several people; people: drawn in proportion to a power of their crops"
    )  # fmt: skip
    per_person: int = Field(default=4, ge=1, description="balanced: crops of a person in a batch")
    crop_power: float = Field(default=0.5, ge=0, le=1, description="people: 1 draws all crops alike, 0 all people")
    seed: int = Field(
        default=0, ge=0, le=2**63 - 1, description="of the initial weights, the order of crops and the mirroring"
    )
    compile: bool = Field(default=False, description="compile the network (torch.compile), which takes a minute first")
    spread_every: int = Field(
        default=1,
        ge=1,
        description="rows of the history between those that say how the neurons of each layer are spread",
    )
    evaluate_every: int | None = Field(
        default=None, ge=1, description="steps, a multiple of log_every, between tests on the held-out pairs, if any"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        check_rising(self.steps)
        if self.epochs is not None and self.schedule == "multistep" and max(self.steps, default=0) > self.epochs:
            raise ValueError(f"steps are epochs where epochs is given, and {self.epochs} is less than {self.steps[-1]}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} cannot be computed in {self.accumulate} equal passes")
        if self.accumulate > 1 and self.head.name == "adaface":
            raise ValueError("adaface goes with no accumulate: it follows the lengths of whole batches")
        if self.classes == "sharded":
            if self.ema or self.precision == "fp16" or (self.energy and self.energy.mode == "caffe"):
                raise ValueError("classes: sharded goes with no ema, no fp16 and no energy of mode caffe")
        elif self.sample_rate < 1:
            raise ValueError("sample_rate is for classes: sharded")
        if self.evaluate_every and self.evaluate_every % self.log_every:
            raise ValueError(f"evaluate_every must be a multiple of log_every, which is {self.log_every}")
        return self

    def in_steps(self, crops: int) -> Self:
        """The same for a set of that many crops, with epochs given as steps."""
        if self.epochs is None:
            return self

        def steps(epochs: int) -> int:
            return -(-epochs * crops // self.batch_size)

        counts = {"max_iter": steps(self.epochs), "steps": tuple(map(steps, self.steps)), "warmup": steps(self.warmup)}
        return self.model_copy(update={"epochs": None, **counts})


class TrainSettings(StageKey, SolverSettings):
    """Settings of training a new network, and which network."""

    stage: ClassVar[Stage] = Stage("train", 1, deferred("sfplus.stages.train:build_train"), trains=True, measures=True)

    network: (
        Literal["sphereface4", "sphereface10", "sphereface20", "sphereface36", "sphereface64"]
        | Annotated[str, Field(pattern=r"^(timm|torchvision):.")]
    ) = Field(
        default="sphereface20", description="the network (SphereFace paper, table 2), or timm:NAME, torchvision:NAME"
    )
    feature_size: int = Field(default=512, ge=1, le=65536, description="dimension of a feature (prototxt, fc5)")
    width: float = Field(
        default=1.0, gt=0, le=16, description="multiplier of the channels; below 1 for small computers"
    )
    block: Literal["original", "modern"] = Field(
        default="original", description="residual units as in the paper or as in OpenSphere"
    )
    batch_norm: bool = Field(default=False, description="batch normalisation after each layer (OpenSphere)")
    exclude: People = Field(
        default=(),
        description="people to leave out because they are in the test set (get_list.m): names, or a file with one per "
        "line",
    )
    photos: Path | None = Field(
        default=None,
        exclude=True,
        description="a folder per person, or a pack of crops (sfplus pack); not needed with a drawn sample",
    )

    def plan(self, request: PlanRequest) -> list[Step]:
        """Detect and align the training photos and train on their crops."""
        before, inputs = training_inputs(self.photos, self, request)
        return [*before, Step("train", self.stage, self, inputs)]


def training_inputs(
    photos: Path | None, settings: SolverSettings, request: PlanRequest
) -> tuple[list[Step], dict[str, InputReference]]:
    """Return the steps that prepare the crops of a training, and its inputs.

    Args:
        photos: A folder per person or a pack of crops; None for the drawn sample.
        settings: The settings of the training.
        request: The recipe.
    """
    steps: list[Step] = []
    inputs: dict[str, InputReference] = {"crops": StepOutput("align/train")}
    if photos and is_pack(photos):
        inputs["crops"] = UserPack(photos)
    else:
        root = UserPhotos(photos) if photos else StepOutput("sample", TRAIN_PHOTOS)
        steps += crop_steps(root, request, "train")
    if settings.evaluate_every and (verify := request.recipe.verify):
        steps += verify.held_out_steps(request)
        inputs |= {"held_out": StepOutput("align/verify"), "pairs": verify.pair_list}
    return steps, inputs
