"""The key `train`: training of a new network, and the settings that fine-tuning shares. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sfplus.artifacts.layout import TRAIN_PHOTOS
from sfplus.artifacts.stage import Deferred, Stage
from sfplus.datasets.formats.pack import is_pack
from sfplus.datasets.identities import read_person_list
from sfplus.datasets.records import PeopleRule
from sfplus.errors import suggest
from sfplus.networks import is_function, is_network, network_names
from sfplus.recipes.settings.align import crop_steps
from sfplus.recipes.settings.energy import AnyEnergySettings
from sfplus.recipes.settings.engine import LoopSettings, check_rising
from sfplus.recipes.settings.heads import HeadSettings, validate_head
from sfplus.recipes.settings.own_code import OwnEnergySettings, OwnHeadSettings
from sfplus.recipes.settings.teacher import TeacherSettings
from sfplus.recipes.settings.verify import VerifySettings
from sfplus.recipes.steps import (
    InputReference,
    PlanRequest,
    StageKey,
    Step,
    StepOutput,
    UserCode,
    UserPack,
    UserPhotos,
)


def _read_people(value: Any) -> Any:
    """Read people that a recipe gives as the file that lists them."""
    if isinstance(value, str):
        return read_person_list(Path(value))
    for name in value if isinstance(value, list | tuple) else ():
        if isinstance(name, str) and "/" in name and Path(name).is_file():
            raise ValueError(f"'{name}' is a file: give it alone, not in a list")
    return value


def _check_network(name: str) -> str:
    if not (is_network(name) or is_function(name)):
        names = ", ".join(network_names())
        alternatives = "timm:NAME, torchvision:NAME or package.module:function"
        raise ValueError(suggest(name, network_names()) or f"use one of {names}, {alternatives}")
    return name


People = Annotated[tuple[str, ...], BeforeValidator(_read_people)]
NetworkName = Annotated[str, AfterValidator(_check_network)]


class SolverSettings(LoopSettings):
    """Settings of training a face network; defaults: SphereFace's solver and model prototxt, on two GPUs."""

    head: Annotated[HeadSettings, BeforeValidator(validate_head)] = Field(
        default=validate_head({}),
        description="the head: classifier and margin; name: one of hypersphere.HEADS, or package.module:Class, whose "
        "options are the further keys",
    )
    energy: AnyEnergySettings | None = Field(
        default=None, description="the energy of SphereFace+, or a regulariser of your own; none for SphereFace"
    )
    teacher: TeacherSettings | None = Field(
        default=None,
        exclude_if=lambda teacher: teacher is None,  # which keeps the fingerprints of recipes without this key
        description="knowledge distillation: a trained model whose features are learned; none: labels only",
    )
    classes: Literal["replicated", "sharded"] = Field(
        default="replicated", description="each process holds all classes, or a shard of them, as for 10^5 people"
    )
    sample_rate: float = Field(
        default=1.0, gt=0, le=1, description="sharded: fraction of the negative classes in each step (Partial FC)"
    )
    base_lr: float = Field(default=0.1, gt=0, description="initial learning rate (solver)")
    schedule: Literal["multistep", "cosine", "poly"] = Field(
        default="multistep", description="learning-rate schedule: drops at steps (solver), half a cosine, or a power "
        "of the remaining fraction (Caffe's poly); the last two reach 0 after the last step"
    )  # fmt: skip
    steps: tuple[int, ...] = Field(
        default=(16000, 24000, 28000), description="multistep: the rate drops after these steps (solver)"
    )
    lr_gamma: float = Field(default=0.1, gt=0, le=1, description="multistep: factor of each drop (solver)")
    lr_power: float = Field(default=1.0, gt=0, description="poly: exponent")
    warmup: int = Field(default=0, ge=0, description="steps in which the rate rises linearly from 0 to base_lr")
    max_iter: int = Field(default=28000, ge=1, description="number of steps (solver)")
    epochs: int | None = Field(
        default=None,
        ge=1,
        description="passes over the crops, instead of max_iter; steps and warmup are then in epochs",
    )
    batch_size: int = Field(
        default=512, ge=1, le=10_000_000, description="crops per step over all processes (256 per GPU, two GPUs)"
    )
    accumulate: int = Field(
        default=1, ge=1, description="forward passes per batch, to save memory (iter_size); counters of heads count "
        "batches, not passes as in Caffe"
    )  # fmt: skip
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD (solver)")
    weight_decay: float = Field(default=5e-4, ge=0, description="weight decay, not applied to biases (solver)")
    clip: float | None = Field(default=None, gt=0, description="maximum norm of the gradient over all weights")
    ema: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="decay of the moving average of the weights, which becomes the model; 0: no average",
    )
    mirror: bool = Field(default=True, description="mirror crops with probability 1/2 (prototxt)")
    augment: float = Field(
        default=0.0, ge=0, le=2, description="strength of random rotation, scale, shift, contrast, brightness and "
        "greyscale; small sets of people need it; 0: none, as in the original"
    )  # fmt: skip
    sampler: Literal["shuffle", "balanced", "people"] = Field(
        default="shuffle", description="shuffle: every crop once per epoch (prototxt); balanced: per_person crops of "
        "each of several people; people: people drawn in proportion to a power of their number of crops"
    )  # fmt: skip
    per_person: int = Field(default=4, ge=1, description="balanced: crops per person in a batch")
    crop_power: float = Field(default=0.5, ge=0, le=1, description="people: 1 weights all crops equally, 0 all people")
    people: PeopleRule = Field(
        default="path",
        exclude_if=lambda rule: rule == "path",  # which keeps the fingerprints of recipes without this key
        description="the person of a photo in nested folders: path, all of them; first-folder, for albums inside a "
        "person's folder; last-folder, for folders of people inside train/ and val/",
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=2**63 - 1,
        description="random seed of the initial weights, the order of crops and the augmentation",
    )
    compile: bool = Field(
        default=False, description="compile the network (torch.compile), which takes about a minute at the start"
    )
    spread_every: int = Field(
        default=1,
        ge=1,
        description="rows of the history between measurements of the uniformity of each layer's neurons",
    )
    evaluate_every: int | None = Field(
        default=None,
        ge=1,
        description="steps, a multiple of log_every, between tests on held-out pairs; None: no tests",
    )

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        check_rising(self.steps)
        if self.epochs is not None and self.schedule == "multistep" and max(self.steps, default=0) > self.epochs:
            raise ValueError(f"steps are epochs where epochs is given, and {self.epochs} is less than {self.steps[-1]}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} cannot be computed in {self.accumulate} equal passes")
        if self.accumulate > 1 and self.head.name == "adaface":
            raise ValueError("adaface cannot be combined with accumulate: it tracks the feature norms of whole batches")
        if self.classes == "sharded":
            if isinstance(self.energy, OwnEnergySettings):
                raise ValueError("classes: sharded cannot be combined with a regulariser of your own")
            if self.ema or self.precision == "fp16" or (self.energy and self.energy.mode == "caffe"):
                raise ValueError("classes: sharded cannot be combined with ema, fp16 or an energy of mode caffe")
        elif self.sample_rate < 1:
            raise ValueError("sample_rate needs classes: sharded")
        if self.teacher and self.teacher.relational and self.accumulate > 1:
            raise ValueError("teacher.relational cannot be combined with accumulate: it compares the whole batch")
        by_person = (self.energy and self.energy.weight) or self.classes == "sharded" or self.sampler != "shuffle"
        if not self.classifies and by_person:
            raise ValueError("teacher.classify: false cannot be combined with energy, classes: sharded or a sampler")
        if self.evaluate_every and self.evaluate_every % self.log_every:
            raise ValueError(f"evaluate_every must be a multiple of log_every, which is {self.log_every}")
        return self

    @property
    def classifies(self) -> bool:
        """True if a head is trained, which needs photos by person; if not, the teacher alone is learned."""
        return self.teacher is None or self.teacher.classify

    def in_steps(self, crops: int) -> Self:
        """Return the settings with epochs converted to steps, for a training set of that many crops."""
        if self.epochs is None:
            return self

        def steps(epochs: int) -> int:
            return -(-epochs * crops // self.batch_size)

        counts = {"max_iter": steps(self.epochs), "steps": tuple(map(steps, self.steps)), "warmup": steps(self.warmup)}
        return self.model_copy(update={"epochs": None, **counts})


class TrainSettings(StageKey, SolverSettings):
    """Settings of training a new network, and which network."""

    stage: ClassVar[Stage] = Stage("train", 1, Deferred("sfplus.stages.train:build_train"), trains=True, measures=True)

    network: NetworkName = Field(
        default="sphereface20",
        description="the network (SphereFace paper, table 2), or timm:NAME, torchvision:NAME, package.module:function",
    )
    network_options: dict[str, Any] = Field(
        default={},
        exclude_if=lambda options: not options,  # which keeps the fingerprints of recipes without this key
        description="further options of a network of your own, by the names in its signature",
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

    @model_validator(mode="after")
    def _check_network_options(self) -> Self:
        if taken := sorted({"feature_size", "crop_size", "width", "block", "batch_norm"} & self.network_options.keys()):
            raise ValueError(f"network_options: {taken[0]} is a key of train, or follows from the crops")
        if self.network_options and is_network(self.network):
            raise ValueError(f"network_options are for networks of your own; {self.network} has none")
        return self

    def plan(self, request: PlanRequest) -> list[Step]:
        """Detect and align the training photos and train on their crops."""
        before, inputs = training_inputs("train", self.photos, self, request)
        return [*before, Step("train", self.stage, self, inputs | self.network_code(request))]

    def network_code(self, request: PlanRequest) -> dict[str, InputReference]:
        """Return the code of a network of the user's own."""
        return {} if is_network(self.network) else {"network": UserCode(self.network)}


def training_inputs(
    name: str, photos: Path | None, settings: SolverSettings, request: PlanRequest
) -> tuple[list[Step], dict[str, InputReference]]:
    """Return the steps that prepare the crops of a training and the features of its teacher, and its inputs.

    Args:
        name: The key that trains.
        photos: A folder per person or a pack of crops; None for the drawn sample.
        settings: The settings of the training.
        request: The recipe.
    """
    steps: list[Step] = []
    inputs: dict[str, InputReference] = {"crops": StepOutput("align/train")}
    if photos and is_pack(photos):
        inputs["crops"] = UserPack(photos)
    else:
        people = settings.people if settings.classifies else None
        root = UserPhotos(photos, people=people) if photos else StepOutput("sample", TRAIN_PHOTOS)
        steps += crop_steps(root, request, "train")
    if isinstance(settings.head, OwnHeadSettings) and settings.classifies:
        inputs["head"] = UserCode(settings.head.name)
    if isinstance(settings.energy, OwnEnergySettings) and settings.classifies:
        inputs["energy"] = UserCode(settings.energy.mode)
    if settings.teacher:
        steps += settings.teacher.plan_steps(name, steps[-1] if steps else None, inputs["crops"], request)
        inputs["teacher"] = StepOutput(steps[-1].name)
    if settings.evaluate_every and (verify := request.find(VerifySettings)):
        steps += verify.held_out_steps(request)
        inputs |= {"held_out": StepOutput("align/verify"), "pairs": verify.pair_list}
    return steps, inputs
