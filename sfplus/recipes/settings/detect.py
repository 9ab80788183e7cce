"""The key `detect`: the MTCNN cascade."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from sfplus.artifacts.stage import Deferred, Stage
from sfplus.recipes.steps import StageKey


class DetectSettings(StageKey, BaseModel):
    """Settings of MTCNN; defaults: face_detect_demo.m."""

    model_config = ConfigDict(extra="forbid")
    stage: ClassVar[Stage] = Stage(
        "detect", 3, Deferred("sfplus.stages.detect:build"), Deferred("sfplus.stages.detect:share")
    )

    min_face: int = Field(20, ge=12, description="smallest face in pixels (face_detect_demo.m: minSize 20)")
    factor: float = Field(
        0.85, gt=0.1, lt=1, description="scale factor of the image pyramid (face_detect_demo.m: factor 0.85)"
    )
    thresholds: tuple[float, float, float] = Field(
        (0.6, 0.7, 0.9), description="score thresholds of P-, R- and O-Net (face_detect_demo.m: [0.6 0.7 0.9])"
    )
    mirror_landmarks: bool = Field(True, description="average the landmarks with those of the mirrored face (MTCNNv1)")
    parity: Literal["none", "matlab"] = Field("none", description="matlab: the arithmetic of the original cascade")
    choose: Literal["centre", "largest", "confident", "all"] = Field(
        "centre", description="which of several faces to use (face_detect_demo.m: the one nearest the centre)"
    )
