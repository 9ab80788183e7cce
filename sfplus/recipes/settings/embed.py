"""The key `embed`: features of crops."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from sfplus.artifacts.stage import Deferred, Stage
from sfplus.recipes.steps import StageKey, UserModel


class EmbedSettings(StageKey, BaseModel):
    """Settings of feature extraction; features are those of the SphereFace protocol: fc5 of crop and mirror image."""

    model_config = ConfigDict(extra="forbid")
    stage: ClassVar[Stage] = Stage("embed", 2, Deferred("sfplus.stages.embed:build"))

    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="floating-point type: float32, the reference, or bfloat16, faster on processors that compute it, "
        "slower on others, without effect on ONNX models",
    )
    model: str | None = Field(
        None,
        exclude=True,
        description="the model to verify: a folder, file, function, name of the zoo or hf:owner/name; not needed where "
        "the recipe trains one",
    )
    network: str = Field(
        "",
        exclude=True,
        description="network of a file of weights: package.module:function, a .prototxt, or a SphereFace network",
    )
    input: str = Field(
        "",
        exclude=True,
        description="input of a model that does not describe it: a preset such as insightface, or key=value,...",
    )

    @property
    def user_model(self) -> UserModel | None:
        """The model to verify, if it is not trained by the recipe."""
        return UserModel(self.model, self.network, self.input, "embed.network") if self.model else None
