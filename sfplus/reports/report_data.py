"""The content of a report.json, which anybody may have changed, as values of declared types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from sfplus.datasets.pairs import Pairs
from sfplus.io.json_files import read_json
from sfplus.verification.identification_rates import IdentificationData, IdentificationSummary
from sfplus.verification.result import Result

_REMEDY = "give the report.json of sfplus verify or sfplus run"

Fraction = Annotated[float, Field(ge=0, le=1)]
_Number = Annotated[int, Field(gt=-(10**100), lt=10**100)] | Annotated[float, Field(gt=-1e100, lt=1e100)]


class _Data(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class PublishedRow(TypedDict):
    """A published figure."""

    name: str
    accuracy: Fraction
    source: str


class ProtocolSummary(TypedDict):
    """The accuracy of a model by one protocol."""

    mean: float
    standard_error: float


class ResultData(_Data):
    """The result of a model, with its pairs where the report lists them."""

    protocol: str
    accuracy: list[Fraction] = Field(min_length=1)
    threshold: list[float]
    scores: list[float] = Field(min_length=1)
    same: list[bool]
    fold: list[Annotated[int, Field(ge=0)]]
    ties: Literal["wrong", "different", "same"] = "wrong"
    mirrored: bool | None = None
    left: list[str] | None = None
    right: list[str] | None = None

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        sizes = {
            len(column) for column in (self.scores, self.same, self.fold, self.left, self.right) if column is not None
        }
        if len(sizes) > 1 or len(self.accuracy) != len(self.threshold) or (self.left is None) != (self.right is None):
            raise ValueError("lists of different lengths")
        if max(self.fold) >= len(self.accuracy):
            raise ValueError("a pair is in no fold")
        return self

    @property
    def result(self) -> Result:
        """The result."""
        return Result.from_dict(self.model_dump())

    @property
    def pairs(self) -> Pairs | None:
        """The pairs, or None where the report does not list them."""
        if self.left is None or self.right is None:
            return None
        result = self.result
        return Pairs(tuple(self.left), tuple(self.right), result.same, result.fold)


class ReportData(_Data):
    """The part of a report that a report of several runs shows."""

    dataset: str = ""
    results: dict[str, ResultData]
    models: dict[str, dict[str, Any]] = Field(default_factory=dict)
    histories: dict[str, list[dict[str, _Number | None]]] = Field(default_factory=dict)
    protocols: dict[str, dict[str, ProtocolSummary]] = Field(default_factory=dict)
    hashes: dict[str, str] = Field(default_factory=dict)
    published: list[PublishedRow] = Field(default_factory=list)
    identification: dict[str, IdentificationData] | None = None  # reports of earlier versions have none

    @model_validator(mode="after")
    def _check_identification(self) -> Self:
        _ = self.identified
        return self

    @property
    def identified(self) -> dict[str, IdentificationSummary]:
        """The identification rates of each model."""
        return {name: IdentificationSummary.from_json(data) for name, data in (self.identification or {}).items()}


class ReportSummary(_Data):
    """The part of an earlier report that the next run needs."""

    hashes: dict[str, str] = Field(default_factory=dict)
    verdicts: list[str] = Field(default_factory=list)


def read_report_data(file: Path) -> ReportData:
    """Read a report.json.

    Raises:
        ArtefactError: If it cannot be read or is not a report.
    """
    return read_json(file, ReportData, remedy=_REMEDY)


def read_report_summary(file: Path) -> ReportSummary:
    """Read the inputs and the verdicts of a report.json.

    Raises:
        ArtefactError: If it cannot be read or is not a report.
    """
    return read_json(file, ReportSummary, remedy=_REMEDY)
