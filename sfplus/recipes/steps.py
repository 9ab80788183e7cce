"""Steps of a recipe: a stage with its settings and references to its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeVar

from pydantic import BaseModel

from sfplus.artifacts.stage import Stage
from sfplus.datasets.records import PeopleRule
from sfplus.recipes.settings.images import ImageDataSettings
from sfplus.weights.find_model import ModelSource


@dataclass(frozen=True)
class StepOutput:
    """A reference to the artefact of an earlier step, or to one folder or file in it."""

    step: str
    part: str = ""


@dataclass(frozen=True)
class UserPack:
    """A reference to a pack of crops of the user's, made by `sfplus pack`."""

    root: Path


@dataclass(frozen=True)
class UserPairs:
    """A reference to a pair list of the user's: a file, two files that belong together, or a folder.

    Attributes:
        path: The list.
        photos: The user's folder of photos that its names are matched with, if there is one.
        folds: The number of folds to split the pairs into; 0 for those of the list.
        may_miss: Whether names without a photo are accepted.
    """

    path: Path
    photos: Path | None = None
    folds: int = 0
    may_miss: bool = False


@dataclass(frozen=True)
class UserPhotos:
    """A reference to a folder of photos of the user's, or to those photos in it that a pair list names.

    Attributes:
        root: The folder.
        pairs: The pair list; None for all photos.
        people: Which of nested folders is the person, if the photos are in folders of people.
        least: The number of photos that at least one of these people must have.
    """

    root: Path
    pairs: UserPairs | None = None
    people: PeopleRule | None = None
    least: int = 1


@dataclass(frozen=True)
class UserBin:
    """A reference to the crops of a verification set of insightface, a `.bin` file."""

    path: Path


@dataclass(frozen=True)
class UserFile:
    """A reference to a file of the user's."""

    path: Path


@dataclass(frozen=True)
class UserCode:
    """A reference to code of the user's by its import path, `package.module:name`; its source counts."""

    path: str


@dataclass(frozen=True)
class UserImages:
    """A reference to a set of labelled images."""

    settings: ImageDataSettings


@dataclass(frozen=True)
class UserModel(ModelSource):
    """A reference to a trained model of the user's, or of the zoo.

    Attributes:
        key: The option or the key of the recipe that names its network, for messages; `--against` has none.
    """

    key: str = field(default="--network", compare=False)


@dataclass(frozen=True)
class UserDetector:
    """A reference to a detector of the zoo.

    Attributes:
        name: Its name.
    """

    name: str


InputReference = (
    StepOutput
    | UserPhotos
    | UserBin
    | UserPack
    | UserPairs
    | UserFile
    | UserCode
    | UserImages
    | UserModel
    | UserDetector
)


@dataclass(frozen=True)
class Step:
    """A stage with its settings and inputs.

    Attributes:
        name: Unique in the plan; a stage that is used twice has names such as `align/train` and `align/verify`.
        stage: The stage.
        settings: The settings of the stage.
        inputs: References to its inputs, by name.
    """

    name: str
    stage: Stage
    settings: BaseModel
    inputs: Mapping[str, InputReference] = field(default_factory=dict)


class StageKey:
    """A key of a recipe that holds the settings of a stage: the base of the settings classes.

    Attributes:
        stage: The declaration of the stage.
        for_images: Whether the stage belongs to recipes for images, not for faces.
    """

    stage: ClassVar[Stage]
    for_images: ClassVar[bool] = False

    def plan(self, request: PlanRequest) -> list[Step]:
        """Return the steps that this key adds to a plan, after those of the keys before it.

        A step that an earlier key has added already is left out by the planner.
        """
        return []

    def network_code(self, request: PlanRequest) -> dict[str, InputReference]:
        """Return the code of the network of this key's models as the input `network` of the steps that use it.

        It is empty for the networks of sfplus, and for keys that train no face network.
        """
        return {}

    def model_steps(self, name: str) -> list[str]:
        """Return the names of the steps that train a face network, of this key with this name, in order."""
        return [name] if self.stage.trains and not self.for_images else []


Key = TypeVar("Key", bound=StageKey)


@dataclass(frozen=True)
class PlanRequest:
    """The keys of a recipe to plan, and what its report says about it.

    Attributes:
        keys: The settings of the recipe by key, in order.
        text: The YAML of the recipe.
        command: The command that runs it.
    """

    keys: Mapping[str, StageKey]
    text: str = ""
    command: str = ""

    def find(self, kind: type[Key]) -> Key | None:
        """Return the key with settings of this class, or None if the recipe does not have it."""
        return next((key for key in self.keys.values() if isinstance(key, kind)), None)

    def get(self, kind: type[Key]) -> Key:
        """Return the key with settings of this class, which every recipe has."""
        key = self.find(kind)
        assert key is not None, f"{kind.__name__} is not in every recipe"
        return key
