"""A stage and the job that it works on."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel

from sfplus.artifacts.artefact import MANIFEST, Artefact
from sfplus.artifacts.code_input import CodeInput
from sfplus.artifacts.context import RunContext
from sfplus.artifacts.inputs import ModelInput, StageInput
from sfplus.artifacts.settings import deciding_settings
from sfplus.weights.find_model import ModelSource

if TYPE_CHECKING:
    from sfplus.weights.foreign_models import LoadedModel

Settings = TypeVar("Settings")
Input = TypeVar("Input")


@dataclass(frozen=True)
class Job(Generic[Settings]):
    """The work of a stage: its settings and inputs, and the folder that it fills.

    Attributes:
        settings: The validated settings of the stage.
        inputs: The inputs by name.
        folder: The folder to write to; it may hold the files of an interrupted run with the same fingerprint.
        context: Device, workspace and console.
        helps: Whether another process builds the artefact, and this one shares its work.
        linked: The SHA-256 of files in it that the stage linked to those of earlier artefacts, by name.
    """

    settings: Settings
    inputs: Mapping[str, StageInput]
    folder: Path
    context: RunContext
    helps: bool = False
    linked: dict[str, str] = field(default_factory=dict)

    def input(self, name: str, kind: type[Input]) -> Input:
        """Return an input, checked to be of the kind that the stage expects.

        Args:
            name: The name of the input.
            kind: Its class, for example `PhotoFolder` or `Artefact`, or a union of classes.

        Raises:
            TypeError: If the input is of another kind, which is a mistake in the plan.
        """
        value = self.inputs[name]
        if not isinstance(value, kind):
            raise TypeError(f"input '{name}' is {type(value).__name__}, not {kind}")
        return value

    def input_folder(self, name: str) -> Path:
        """Return the folder of an input that is an artefact or a model of the user's."""
        value = self.inputs[name]
        if not isinstance(value, Artefact | ModelInput):
            raise TypeError(f"input '{name}' is {type(value).__name__}, which has no folder")
        return value.folder

    def load_model(self, name: str) -> LoadedModel:
        """Load the model of an input that is an artefact or a model of the user's.

        The code of a network of the user's own is run only if it is the input `network`, that is if the recipe names
        it; the config.json of a model is not enough.
        """
        value, code = self.inputs[name], self.inputs.get("network")
        if isinstance(value, ModelInput):
            return value.source.loaded
        network = code.path if isinstance(code, CodeInput) else ""
        return ModelSource(str(self.input_folder(name)), network).loaded

    @property
    def parts(self) -> Path:
        """The folder for the parts of shared work, until the artefact is in place (see `work_sharing`)."""
        return parts_folder(self.folder)

    @property
    def is_over(self) -> bool:
        """True once another process has put the artefact in place, or has ended because there is no usable photo."""
        return (self.folder.with_suffix("") / MANIFEST).is_file() or not self.parts.is_dir()


@dataclass(frozen=True)
class Stage:
    """The declaration of a stage, which its settings carry (see `recipes.settings`).

    Attributes:
        name: The key in recipes.
        version: Raised whenever the same settings and inputs would give another artefact.
        build: Fills `job.folder` and returns the counts for the manifest and the summary line.
        share: Helps the process that builds, from another process; None where the other process waits.
        trains: Whether it trains: all processes of a launcher build it together, and sweeps repeat it with other seeds.
        measures: Whether its counts are a result that sweeps compare.
    """

    name: str
    version: int
    build: Callable[[Job[Any]], dict[str, Any]]
    share: Callable[[Job[Any]], object] | None = None
    trains: bool = False
    measures: bool = False

    def identity(self, settings: BaseModel, inputs: Mapping[str, StageInput]) -> dict[str, Any]:
        """Return everything that decides the artefact, ready for JSON; its digest is the fingerprint."""
        return {
            "stage": self.name,
            "version": self.version,
            "settings": deciding_settings(settings),
            "inputs": {name: value.content for name, value in sorted(inputs.items())},
        }


@dataclass(frozen=True)
class Deferred:
    """A function of a stage's module, which is imported when the function is called.

    The declaration of a stage is read with every recipe; its module, which imports torch, only when the stage must run.

    Args:
        path: `module:name`.
    """

    path: str

    def resolve(self) -> Callable[[Job[Any]], Any]:
        """Import the module and return the function."""
        module, _, name = self.path.partition(":")
        function: Callable[[Job[Any]], Any] = getattr(importlib.import_module(module), name)
        return function

    def __call__(self, job: Job[Any]) -> Any:
        """Call the function."""
        return self.resolve()(job)


def partial_folder(folder: Path) -> Path:
    """Return the folder in which an artefact grows before it is moved to `folder`."""
    return folder.with_suffix(".partial")


def parts_folder(folder: Path) -> Path:
    """Return the folder with the parts of an artefact that several processes build together."""
    return folder.with_suffix(".parts")
