"""The `config.json` of a model as a validated value: anybody may have written it.

Importing this module does not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from sfplus.errors import UsageError, WeightsError, first_line, one_line
from sfplus.io.files import file_size, write_atomically
from sfplus.io.json_files import parse_json, read_json
from sfplus.io.limits import check_limit
from sfplus.networks import DEFAULT_INPUT
from sfplus.networks.preprocessing import read_preprocessing

MAX_FEATURE = 65_536
"""The longest feature of any network."""

_REMEDY = "get the model again, or correct this file"
_MAX_NAME, _MAX_TEXT = 100, 300  # characters
_MAX_COUNT = 10**12


def _shorten(limit: int) -> AfterValidator:
    """Make a text one printable line without runs of spaces, because people read it on a terminal and in reports."""

    def shorten(text: str) -> str:
        text = " ".join(one_line(text).split())
        return text if len(text) <= limit else f"{text[: limit - 3]}..."

    return AfterValidator(shorten)


_Name = Annotated[str, Field(max_length=_MAX_NAME)]
_Label = Annotated[str, _shorten(_MAX_NAME)]
_Text = Annotated[str, _shorten(_MAX_TEXT)]
_Count = Annotated[int, Field(ge=0, le=_MAX_COUNT)]
_STRICT = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Verification(BaseModel):
    """What `sfplus export` and `calibrate` state about the pairs on which the threshold was measured."""

    model_config = _STRICT
    threshold: float
    accuracy: float = Field(ge=0, le=1)
    standard_error: float = Field(0.0, ge=0, le=1)
    pairs: _Label
    protocol: _Label


class _Published(BaseModel):
    """The published accuracy on LFW, in percent."""

    model_config = _STRICT
    lfw: float = Field(ge=0, le=100)
    runs: list[float] = []
    protocol: _Label
    source: _Text = ""


class _Config(BaseModel):
    """The keys of config.json that sfplus reads; further keys are kept unchanged."""

    model_config = _STRICT
    network: _Name
    feature_size: int = Field(ge=1, le=MAX_FEATURE)
    width: float = Field(1.0, gt=0, le=16)
    input: _Name = DEFAULT_INPUT
    block: _Name = "original"
    batch_norm: bool = False
    network_options: dict[str, Any] = {}
    template: _Name | None = None
    preprocessing: dict[str, Any] = {}
    verification: _Verification | None = None
    published: _Published | None = None
    name: _Label | None = None
    licence: _Text | None = None
    data: _Text | None = None
    people: _Count | None = None
    crops: _Count | None = None
    head: dict[str, Any] | None = None
    energy: dict[str, Any] | None = None
    provenance: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check_further_keys(self) -> _Config:
        json.dumps(self.model_dump(), ensure_ascii=False, allow_nan=False).encode()
        return self


def read_config(file: Path) -> dict[str, Any]:
    """Read the `config.json` of a model.

    Returns:
        The keys in the file. Texts that people read are one printable line of at most 300 characters.

    Raises:
        WeightsError: If there is none, or it does not describe a model.
    """
    if not file.is_file():
        raise WeightsError("there is no such file", where=file, remedy="keep it next to the weights")
    check_limit("config_bytes", file_size(file), file, error=WeightsError)
    return _to_dict(read_json(file, _Config, remedy=_REMEDY, error=WeightsError), file)


def parse_config(text: str | bytes, where: Path) -> dict[str, Any]:
    """Return a config that is stored in another file, such as ONNX; see `read_config`."""
    check_limit("config_bytes", len(text), where, error=WeightsError)
    return _to_dict(parse_json(text, _Config, where=where, remedy=_REMEDY, error=WeightsError), where)


def write_config(file: Path, config: Mapping[str, Any]) -> None:
    """Write a `config.json` atomically.

    Raises:
        WeightsError: If the config lacks a key or is not JSON.
    """
    write_atomically(file, encode_config(config, file))


def encode_config(config: Mapping[str, Any], file: Path) -> bytes:
    """Return the contents of a `config.json`; equal configs give equal bytes.

    Raises:
        WeightsError: If the config lacks a key or is not JSON; `file` is the file in the message.
    """
    try:
        text = json.dumps(dict(config), indent=2, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n"
        _Config.model_validate(json.loads(text))
        return text.encode()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = f"{'.'.join(map(str, first['loc'])) or 'config'}: {first['msg']}"
    except (TypeError, ValueError) as error:
        reason = first_line(error)
    raise WeightsError(f"does not describe a model: {reason}", where=file)


def code_error(config: Mapping[str, Any], file: Path, key: str) -> UsageError:
    """Return the error of a model whose network is code of the user's own that the user did not name.

    Args:
        config: its config.
        file: its `config.json`.
        key: the option or the key of a recipe that names the network, or `--against`, which has none.
    """
    name = config["network"]
    remedy = f"add {key}{' ' if key.startswith('--') else '='}{name} if you trust this code"
    if key == "--against":
        remedy = f"convert it first, if you trust this code: sfplus convert {file.parent} MODEL.onnx --network {name}"
    return UsageError(f"its network is code, {name}, which only you can allow to run", where=file, remedy=remedy)


def _to_dict(config: _Config, where: Path) -> dict[str, Any]:
    values = config.model_dump(exclude_unset=True)
    try:
        read_preprocessing(values)
    except UsageError as error:
        raise WeightsError(error.reason, where=where, remedy=error.remedy) from None
    return values
