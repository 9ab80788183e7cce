"""The key `align`: similarity alignment of faces to crops."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sfplus.alignment.templates import DEFAULT_TEMPLATE, Template, find_template
from sfplus.artifacts.stage import Deferred, Stage
from sfplus.detection.registry import MTCNN, ZOO_DETECTORS
from sfplus.errors import UsageError
from sfplus.recipes.settings.detect import DetectSettings
from sfplus.recipes.steps import InputReference, PlanRequest, StageKey, Step, StepOutput, UserCode, UserDetector


class AlignSettings(StageKey, BaseModel):
    """Settings of the similarity transform from five landmarks to a template; defaults: face_align_demo.m."""

    model_config = ConfigDict(extra="forbid")
    stage: ClassVar[Stage] = Stage(
        "align", 2, Deferred("sfplus.stages.align:build"), Deferred("sfplus.stages.align:share")
    )

    template: str = Field(
        DEFAULT_TEMPLATE,
        description="target positions of the landmarks (face_align_demo.m: 112x96); arcface-112x112, or any other size",
    )
    first_pixel: Literal["source", 0, 1] = Field(
        "source", description="index of the template's first pixel (MATLAB: 1; OpenCV ports of SphereFace: 0)"
    )
    fit: Literal["source", "image", "template"] = Field(
        "source",
        description="least squares in the photo (image; face_align_demo.m: cp2tform), in the crop (template; Umeyama), "
        "or as the source of the template does",
    )
    interpolation: Literal["bilinear", "area", "antialiased"] = Field(
        "bilinear", description="how larger faces are scaled down (face_align_demo.m: imtransform, bilinear)"
    )
    border: Literal["black", "replicate"] = Field(
        "black", description="pixels outside the photo (face_align_demo.m: imtransform, black)"
    )
    format: Literal["jpeg", "png"] = Field("jpeg", description="file format of the crops (face_align_demo.m: jpg)")
    jpeg_quality: int = Field(
        75, ge=1, le=95, description="JPEG quality of the crops (face_align_demo.m: MATLAB's imwrite, 75)"
    )

    @field_validator("template")
    @classmethod
    def _normalise_template_name(cls, name: str) -> str:
        try:
            return find_template(name).name
        except UsageError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _resolve_fit(self) -> AlignSettings:
        """Store the fit of the template's source by its own name, so that both ways to ask for it share the cache."""
        if self.fit == "source":
            self.fit = find_template(self.template).fit
        return self

    @property
    def suffix(self) -> str:
        """The file extension of the crops."""
        return ".png" if self.format == "png" else ".jpg"

    def find_template(self) -> Template:
        """Return the template with its first pixel numbered as these settings say."""
        template = find_template(self.template)
        return template if self.first_pixel == "source" else template.counted_from(self.first_pixel)


class AlignStageSettings(AlignSettings):
    """Settings of the align stage for one set of photos: those of the key, and one that the plan sets."""

    undetected: Literal["drop", "centre-crop"] = Field("drop", description="what to do with photos without a face")


def crop_steps(photos: InputReference, request: PlanRequest, name: str, undetected: str = "drop") -> list[Step]:
    """Return the steps that detect and align one set of photos.

    Args:
        photos: The photos.
        request: The recipe, with the keys `detect` and `align`.
        name: The name of the set; the steps are `detect/NAME` and `align/NAME`.
        undetected: `drop` photos without a face, or use their `centre-crop`.
    """
    detect = request.get(DetectSettings)
    settings = AlignStageSettings(**request.get(AlignSettings).model_dump(), undetected=undetected)
    inputs: dict[str, InputReference] = {"photos": photos}
    if detect.detector in ZOO_DETECTORS:
        inputs["detector"] = UserDetector(detect.detector)
    elif detect.detector != MTCNN:
        inputs["detector"] = UserCode(detect.detector)
    return [
        Step(f"detect/{name}", detect.stage, detect, inputs),
        Step(f"align/{name}", settings.stage, settings, {"photos": photos, "faces": StepOutput(f"detect/{name}")}),
    ]
