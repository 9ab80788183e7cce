"""Models as users name them: folders, files, functions, names of the zoo, repositories of the Hub."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfplus.alignment.templates import DEFAULT_TEMPLATE, find_template
from sfplus.errors import UsageError, WeightsError, suggest
from sfplus.io.files import digest_json, file_digest
from sfplus.io.resources import HUB, shipped_folder, user_folder
from sfplus.networks import DEFAULT_INPUT, is_function, network_names, parse_size
from sfplus.weights import CONFIG, FOLDER_FILES, WEIGHTS_FILES
from sfplus.weights.model_config import code_error, read_config
from sfplus.weights.zoo import zoo

if TYPE_CHECKING:
    from sfplus.weights.foreign_models import LoadedModel


@dataclass(frozen=True)
class ModelSource:
    """A model as a user names it, with what the model itself does not say.

    Attributes:
        name: a folder or file, the name of a shipped or fetched model, `hf:owner/name[@revision]`, or
            `package.module:function`, a function that returns the network.
        network: of a file with weights only: the name of a SphereFace network, a `.prototxt`, or
            `package.module:function`.
        input: the input of the network (see `parse_preprocessing`); empty for what the model says.
    """

    name: str
    network: str = ""
    input: str = ""

    @cached_property
    def path(self) -> Path:
        """The folder or file; of a function, its name.

        Raises:
            UsageError: If there is no such model.
            WeightsError: If the Hugging Face Hub does not have it, or not as a model of sfplus.
        """
        return Path(self.name) if is_function(self.name) else find_model(self.name)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model in memory.

        Raises:
            UsageError: If the model does not exist, or its network or input must be named.
            WeightsError: If it cannot be read, or does not work with this input.
        """
        from sfplus.weights.loading import read_model  # start-up time: imports torch

        return read_model(self.path, self.network, input=self.input)

    @property
    def config(self) -> Mapping[str, Any]:
        """The contents of `config.json`, which are read without loading the weights where there is such a file."""
        if self.path.is_dir() and not (self.network or self.input):
            return read_config(self.path / CONFIG)
        return self.loaded.config

    @property
    def described(self) -> Mapping[str, Any] | None:
        """The contents of a `config.json` on this machine; None if there is none, or the model has to be fetched.

        Raises:
            WeightsError: If the file does not describe a model.
        """
        file = self._config_file
        return read_config(file) if file and file.is_file() else None

    @property
    def _config_file(self) -> Path | None:
        is_fetched = "path" in vars(self)  # the cached property
        if is_function(self.name) or (self.name.startswith(HUB) and not is_fetched):
            return None
        with contextlib.suppress(UsageError):
            if self.path.is_dir():
                return self.path / CONFIG
            if self.path.suffix.lower() == ".safetensors":
                return self.path.with_name(CONFIG)
        return None

    def check_code(self, key: str = "--network") -> None:
        """Check that the user names the network if the model says that it is code of the user's own.

        Args:
            key: what would name it, for messages; see `model_config.code_error`.

        Raises:
            UsageError: If not.
            WeightsError: If the file does not describe a model.
        """
        config, file = self.described, self._config_file
        if config and file and is_function(config["network"]) and not is_function(self.network):
            raise code_error(config, file, key)

    @property
    def template(self) -> str:
        """The name of the template of its crops.

        Raises:
            WeightsError: If the model does not say it.
        """
        return crop_template(self.config, self.path)

    @cached_property
    def content(self) -> str:
        """A digest of everything that decides its features.

        Of a function, whose code may be anywhere, it covers the features of two crops.

        Raises:
            WeightsError: If there is no model in the folder.
        """
        if self.path.is_dir():
            files = [self.path / name for name in FOLDER_FILES if (self.path / name).is_file()]
            if not any(file.name in WEIGHTS_FILES for file in files):
                reason = "there is no model in this folder"
                raise WeightsError(reason, where=self.path, remedy=f"it needs {WEIGHTS_FILES[0]}")
        else:
            files = [file for file in (self.path, *self._described_by()) if file.is_file()]
        digests = [[file.name if self.path.is_dir() else file.suffix, file_digest(file)] for file in files]
        if is_function(self.name) or is_function(self.network):
            from sfplus.weights.foreign_models import measured_digest  # start-up time: imports torch

            digests.append(["features", measured_digest(self.loaded)])
        return digest_json([*digests, self.network, self.input] if self.network or self.input else digests)

    def _described_by(self) -> list[Path]:
        """Return the files that may describe the network of a Caffe file."""
        if self.path.suffix.lower() != ".caffemodel":
            return [self.path.with_name(CONFIG)] if self.path.suffix == ".safetensors" else []
        return [Path(self.network) if self.network.endswith(".prototxt") else self.path.with_suffix(".prototxt")]


def crop_template(config: Mapping[str, Any], path: Path) -> str:
    """Return the name of the template of the crops that a model was trained on.

    Args:
        config: config of the model.
        path: folder of the model, for messages.

    Raises:
        WeightsError: If the config does not name a template, one that does not exist, or one whose crops do not fit a
            SphereFace network.
    """
    if not isinstance(name := config.get("template"), str):
        remedy = f'add "template": "{DEFAULT_TEMPLATE}"'
        raise WeightsError("does not name a template", where=path / CONFIG, remedy=remedy)
    try:
        template = find_template(name)
    except UsageError as error:
        raise WeightsError(error.reason, where=path / CONFIG, remedy=error.remedy) from None
    if config.get("network") in network_names():
        size = parse_size(config.get("input", DEFAULT_INPUT))
        if (template.height, template.width) != size:
            remedy = "name the template that the model was trained on"
            reason = f"its network takes crops of {size[0]}x{size[1]}, its template is {name}"
            raise WeightsError(reason, where=path / CONFIG, remedy=remedy)
    return name


def find_model(name: str) -> Path:
    """Return the folder or file of a model.

    Args:
        name: a path, the name of a shipped or fetched model, or `hf:owner/name[@revision]`.

    Raises:
        UsageError: If there is no such model.
        WeightsError: If the Hugging Face Hub does not have it, or not as a model of sfplus.
    """
    if name.startswith(HUB):
        from sfplus.weights.hub import hub_folder  # start-up time: imports torch

        return hub_folder(name)
    path = Path(name)
    if path.is_dir() or path.is_file():
        return path
    if name in zoo() and zoo()[name].is_detector:
        raise UsageError(f"'{name}' is a detector, not a network", where="model", remedy=f"use --detector {name}")
    if len(path.parts) == 1:
        for folder in (shipped_folder("pretrained") / name, user_folder() / name):
            if any((folder / file).is_file() for file in WEIGHTS_FILES):
                return folder
    raise UsageError(f"there is no model '{name}'", where="model", remedy=_remedy(name))


def _remedy(name: str) -> str:
    if name in zoo():
        return f"get it first: sfplus models fetch {name}"
    alternatives = "give a folder, a file, package.module:function, hf:owner/name, or a name of: sfplus models list"
    return suggest(name, zoo()) or alternatives
