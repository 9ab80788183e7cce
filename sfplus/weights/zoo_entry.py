"""The entries of the zoo: what is known about each published model."""

from __future__ import annotations

from statistics import mean
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sfplus.alignment.templates import DEFAULT_TEMPLATE
from sfplus.errors import UsageError
from sfplus.networks.preprocessing import parse_preprocessing

UNKNOWN = "unknown until first fetched"
DETECTOR = "detector"  # a layout
_FILE = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"

_FileName = Annotated[str, Field(pattern=_FILE)]
_Sha256 = Annotated[str, Field(pattern=f"^([0-9a-f]{{64}}|{UNKNOWN})$")]


class Entry(BaseModel):
    """A model of the zoo."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: str = Field(description="the model in one line")
    network: str = Field("", description="name of the network in networks.create, or package.module:function")
    layout: Literal["sfplus", "caffe", "clcarwin", "yakhyo", "onnx", "state dict", "detector"] = Field(
        description="the project whose names and format it has; or any ONNX graph, any state dict of `network`, or the "
        "ONNX graph of a detector"
    )
    files: dict[_FileName, _Sha256] = Field(
        description="SHA-256 by file name, the weights first; empty if the weights are not released"
    )
    url: str = Field("", pattern="^(https://.+)?$", description="address of a direct download, of the last of `files`")
    pages: tuple[Annotated[str, Field(pattern="^https?://")], ...] = Field((), description="pages with a download")
    template: str = Field(DEFAULT_TEMPLATE, description="template of the crops of a SphereFace network")
    input: str = Field("", description="input of any other network, as in parse_preprocessing")
    licence: str
    data: str = Field(description="training data")
    protocol: Literal["sphereface", "clcarwin", "insightface", "authors'"] = Field(
        "sphereface", description="protocol of the accuracies"
    )
    lfw: float | None = Field(None, gt=50, le=100, description="published accuracy on LFW, percent; not of a detector")
    runs: tuple[float, ...] = Field((), description="accuracies of all published runs, percent")
    verified: str = Field("", description="what this project measured with the file")
    source: str = Field(description="source of these facts")

    @model_validator(mode="after")
    def _check_consistency(self) -> Entry:
        if self.is_detector:
            if self.lfw or self.runs or self.input or self.network or UNKNOWN in self.files.values():
                raise ValueError("a detector has a SHA-256, and no network, input, lfw and runs")
        elif self.lfw not in self.runs:
            raise ValueError("lfw is not one of runs")
        if bool(self.input) != (self.layout in ("onnx", "state dict")):
            raise ValueError("input is for layouts onnx and state dict")
        if not self.network and self.layout not in ("onnx", DETECTOR):
            raise ValueError("network is missing")
        try:
            parse_preprocessing(self.input)
        except UsageError as error:
            raise ValueError(str(error)) from None
        if self.url and self.url.rpartition("/")[2] not in list(self.files)[-1:]:
            raise ValueError("url does not end with the last of files")
        return self

    @property
    def is_detector(self) -> bool:
        """Whether it is a detector of faces, for `--detector`, and not a network for `--model`."""
        return self.layout == DETECTOR

    @property
    def option(self) -> str:
        """The option of commands that takes it."""
        return "--detector" if self.is_detector else "--model"

    @property
    def accuracy(self) -> str:
        """The published accuracy with its protocol; empty for a detector."""
        if self.lfw is None:
            return ""
        runs = f", mean of {len(self.runs)} runs {mean(self.runs):.2f} %" if len(self.runs) > 1 else ""
        return f"{self.lfw:.2f} %{runs} ({self.protocol} protocol)"

    @property
    def crops(self) -> str:
        """The crops that it takes, and for a network of another project their conversion to its input."""
        if self.is_detector:
            return ""
        return str(parse_preprocessing(self.input)) if self.input else self.template
