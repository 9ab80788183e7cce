"""The key `detect`: the detector of faces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sfplus.artifacts.settings import ADDED_LATER
from sfplus.artifacts.stage import Deferred, Stage
from sfplus.detection.registry import MTCNN, YUNET, check_detector
from sfplus.errors import UsageError
from sfplus.recipes.steps import StageKey

_OWN_SETTINGS = {MTCNN: ("factor", "thresholds", "mirror_landmarks", "parity"), YUNET: ("min_score",)}


class DetectSettings(StageKey, BaseModel):
    """Settings of the detector; defaults: MTCNN, as in face_detect_demo.m."""

    model_config = ConfigDict(extra="forbid")
    stage: ClassVar[Stage] = Stage(
        "detect", 3, Deferred("sfplus.stages.detect:build"), Deferred("sfplus.stages.detect:share")
    )

    detector: str = Field(
        MTCNN,
        description="mtcnn, yunet (sfplus models fetch yunet), or package.module:Class, a detector of your own",
        json_schema_extra=ADDED_LATER,
    )
    turned: bool = Field(
        False,
        description="try the other three orientations of photos in which no face is found, or none with a sure score",
        json_schema_extra=ADDED_LATER,
    )
    min_face: int = Field(20, ge=12, description="smallest face in pixels (face_detect_demo.m: minSize 20)")
    factor: float = Field(
        0.85, gt=0.1, lt=1, description="mtcnn: scale factor of the image pyramid (face_detect_demo.m: factor 0.85)"
    )
    thresholds: tuple[float, float, float] = Field(
        (0.6, 0.7, 0.9), description="mtcnn: score thresholds of P-, R- and O-Net (face_detect_demo.m: [0.6 0.7 0.9])"
    )
    mirror_landmarks: bool = Field(
        True, description="mtcnn: average the landmarks with those of the mirrored face (MTCNNv1)"
    )
    parity: Literal["none", "matlab"] = Field("none", description="mtcnn: matlab is the arithmetic of the original")
    min_score: float = Field(
        0.7, gt=0, lt=1, description="yunet: lowest score of a face (OpenCV: 0.9)", json_schema_extra=ADDED_LATER
    )
    choose: Literal["centre", "largest", "confident", "all"] = Field(
        "centre", description="which of several faces to use (face_detect_demo.m: the one nearest the centre)"
    )

    @field_validator("detector")
    @classmethod
    def _check_detector(cls, name: str) -> str:
        try:
            check_detector(name)
        except UsageError as error:
            raise ValueError(str(error)) from None
        return name

    @model_validator(mode="after")
    def _check_settings_of_others(self) -> DetectSettings:
        if names := settings_of_others(self.detector, dict(self)):
            owner = next(owner for owner, fields in _OWN_SETTINGS.items() if names[0] in fields)
            value = getattr(self, names[0])
            text = list(value) if isinstance(value, tuple) else value
            raise ValueError(f"{names[0]}: {text} is of {owner}, not of {self.detector}")
        return self


def settings_of_others(detector: Any, settings: Mapping[str, Any]) -> list[str]:
    """Return the names of those settings that only another detector has, and that are not at their defaults."""
    unused = [name for owner, names in _OWN_SETTINGS.items() if owner != detector for name in names]
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    return [name for name in unused if name in values and values[name] != DetectSettings.model_fields[name].default]
