"""The key `classify`: training of an image classifier. Imports no torch."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from sfplus.artifacts.stage import Deferred, Stage
from sfplus.networks import is_function
from sfplus.recipes.settings.engine import LoopSettings, StrictSettings, check_rising
from sfplus.recipes.settings.images import ImageDataSettings
from sfplus.recipes.settings.own_code import OwnEnergySettings, validate_energy
from sfplus.recipes.steps import InputReference, PlanRequest, StageKey, Step, UserCode, UserImages

NETWORK_KEYS = {"width", "operator", "rescale", "weight_norm", "bn_momentum"}
"""The keys that are arguments of `create_classifier`."""

PROJECTIONS = ("comhe-random", "comhe-angle", "comhe-adversarial", "comhe-group")


def released_factors(mode: str, power: object) -> dict[str, float]:
    """Return the released factors of a regularizer, `hidden` and `output`; of unknown modes none.

    Sources: MHE, architecture.py, `_add_thomson_constraint` and `_add_thomson_constraint_final`; the same in CoMHE;
    SphereNet, spherenet.py, `_add_orthogonal_constraint`, which leaves out the output layer.
    """
    if mode in ("orthonormal", "orthogonal"):
        return {"hidden": 2e-4}
    if mode == "mhe" or mode in PROJECTIONS:
        return {"hidden": 0.1, "output": 1.0} if power in ("a1", "a2") else {"hidden": 1.0, "output": 10.0}
    return {}


class RegularizerSettings(StrictSettings):
    """Settings of the regularizer of the neurons of a network."""

    mode: Literal[
        "none", "mhe", "comhe-random", "comhe-angle", "comhe-adversarial", "comhe-group", "orthonormal", "orthogonal"
    ] = Field(
        default="none",
        description="mhe: hyperspherical energy of each layer; comhe-*: of projected hidden neurons (CoMHE paper, "
        "section 4); orthonormal: 1/2 ||W'W - I||^2 of the hidden layers; orthogonal: the same without the diagonal",
    )
    power: Literal[0, 1, 2, "a0", "a1", "a2"] = Field(
        default=2, description="s of the energy; with a: of angles instead of distances (train.py, --power_s)"
    )
    half_space: bool = Field(
        default=False, description="treat a hidden neuron and its opposite as the same (MHE paper, section 3.3)"
    )
    hidden: float | None = Field(
        default=None,
        ge=0,
        description="weight of each hidden layer; default: 1, 0.1 for a1 and a2 (architecture.py), and 2e-4 for "
        "orthonormal and orthogonal (spherenet.py)",
    )
    output: float | None = Field(
        default=None,
        ge=0,
        description="weight of the output layer's energy; default: 10, 1 for a1 and a2 (architecture.py)",
    )
    preset: Literal["tf1", "exact"] = Field(
        default="tf1", description="tf1: the arithmetic of the released code; exact: that of the paper"
    )
    dim: int | None = Field(
        default=None,
        ge=1,
        description="CoMHE: dimension of a projected neuron; default: 40 if random, else 30 (train.py, --pd)",
    )
    count: int = Field(default=20, ge=1, description="random CoMHE: number of projections (train.py, --pn)")
    iterations: int | None = Field(
        default=None,
        ge=1,
        description="learned projections: their updates per step; default: angle 1, adversarial 10 (train.py, --iters)",
    )
    groups: int = Field(
        default=8, ge=1, description="group CoMHE: number of groups of channels (not given in the paper)"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_factors(cls, values: Any) -> Any:
        """Fill in the released factors if none is given, as recipes once did: their artefacts stay valid."""
        if isinstance(values, dict) and not {"hidden", "output"} & values.keys():
            return values | released_factors(values.get("mode", "none"), values.get("power", 2))
        return values

    @model_validator(mode="after")
    def _check_distance(self) -> Self:
        if self.mode in PROJECTIONS and str(self.power) in ("a0", "a1", "a2"):
            raise ValueError("CoMHE is defined for distances: use power 0, 1 or 2")
        return self


AnyRegularizerSettings = Annotated[
    RegularizerSettings | OwnEnergySettings,
    BeforeValidator(partial(validate_energy, settings=RegularizerSettings, example="{mode: mhe, power: 2}")),
]


class ClassifySettings(StageKey, LoopSettings):
    """Settings of training an image classifier; defaults: CNN-9 on CIFAR-100 (MHE, architecture.py and train.py)."""

    stage: ClassVar[Stage] = Stage(
        "classify", 1, Deferred("sfplus.image_tasks.classify_stage:build"), trains=True, measures=True
    )
    for_images: ClassVar[bool] = True

    data: ImageDataSettings = Field(default=ImageDataSettings(), description="the images")
    precision: Literal["auto", "float32", "bf16"] = Field(
        default="auto",
        description="precision of the forward passes; auto: bf16 on a GPU that computes it natively, else float32",
    )
    network: str = Field(
        default="cnn9",
        description="cnn6, cnn9, cnn15 (MHE paper, table 3), spherenet9, sphere-resnet32, mnist6, torchvision:NAME, "
        "timm:NAME or package.module:function",
    )
    network_options: dict[str, Any] = Field(
        default={},
        exclude_if=lambda options: not options,  # which keeps the fingerprints of recipes without this key
        description="further options of a network of your own, by the names in its signature",
    )
    width: int = Field(
        default=0, ge=0, description="filters of the first stage; 0: the default of the network (MHE paper, table 2: "
        "16 to 256)"
    )  # fmt: skip
    operator: Literal["none", "linear", "cosine", "sigmoid", "learnable-sigmoid"] = Field(
        default="none",
        description="operator of the convolutions on angles (spherenet.py: norm); none: ordinary convolutions",
    )
    rescale: bool = Field(
        default=False,
        exclude_if=lambda rescale: not rescale,  # as above
        description="SphereNorm: convolutions on angles learn a factor and a bias for each filter (SphereNet paper), "
        "and an exponent of the norms, with which cosine can become the ordinary convolution (ours)",
    )
    weight_norm: bool = Field(default=False, description="weight-normalised softmax (spherenet.py: w_norm=cosine)")
    bn_momentum: float = Field(
        default=0.001,
        gt=0,
        le=1,
        description="weight of a batch in the moving averages of batch normalisation (1 - 0.999)",
    )
    energy: AnyRegularizerSettings = Field(
        default=RegularizerSettings(),
        description="regularizer of the neurons; mode: package.module:name for one of your own, with weight and its "
        "options",
    )
    orthonormal: float = Field(
        default=2e-4, ge=0, description="weight of 1/2 ||W'W - I||^2 of convolutions on angles, which have no weight "
        "decay (spherenet.py)"
    )  # fmt: skip
    label_smoothing: float = Field(default=0.01, ge=0, lt=1, description="label smoothing (loss.py)")
    offset: float = Field(
        default=1e-4,
        ge=0,
        description="added to each probability before the logarithm (loss.py); 0: plain cross-entropy",
    )
    optimizer: Literal["sgd", "adam"] = Field(default="sgd", description="SGD with momentum (train.py), or Adam")
    base_lr: float = Field(default=0.1, gt=0, description="initial learning rate (train.py)")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD (train.py)")
    weight_decay: float = Field(
        default=5e-4, ge=0, description="weight decay of all weights, including batch normalisation (architecture.py)"
    )
    steps: tuple[int, ...] = Field(
        default=(20000, 30000, 37500), description="the rate drops after these steps (train.py)"
    )
    lr_gamma: float = Field(default=0.1, gt=0, le=1, description="factor of each drop (train.py)")
    warmup: int = Field(default=0, ge=0, description="steps in which the rate rises linearly from 0 (none published)")
    max_iter: int = Field(default=42500, ge=1, description="number of steps (train.py)")
    batch_size: int = Field(default=128, ge=1, description="images per step over all processes (train.py)")
    test_every: int = Field(
        default=500, ge=1, description="steps between evaluations on the test set (train.py), a multiple of log_every"
    )

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        check_rising(self.steps)
        if self.test_every % self.log_every:
            raise ValueError("test_every must be a multiple of log_every")
        if self.rescale and self.operator == "none":
            raise ValueError("rescale is for convolutions on angles: set operator")
        return self

    def plan(self, request: PlanRequest) -> list[Step]:
        """Train the classifier."""
        inputs: dict[str, InputReference] = {"pictures": UserImages(self.data)}
        if isinstance(self.energy, OwnEnergySettings):
            inputs["energy"] = UserCode(self.energy.mode)
        if is_function(self.network):
            inputs["network"] = UserCode(self.network)
        return [Step("classify", self.stage, self, inputs)]
