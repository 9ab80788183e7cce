"""A stage that writes a text, for the tests of artefacts."""

import time
from typing import Any

from pydantic import BaseModel

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.cache import run_stage
from sfplus.artifacts.context import RunContext
from sfplus.artifacts.stage import Job, Stage


class TextSettings(BaseModel):
    text: str = "x"


class TextInput:
    def __init__(self, content: str = "words") -> None:
        self.content = content

    def describe(self) -> str:
        return self.content


def write_text(job: Job) -> dict[str, Any]:
    (job.folder / "text").write_text(job.settings.text + job.inputs["words"].content)
    (job.folder / "tensorboard").mkdir(exist_ok=True)
    (job.folder / "tensorboard" / "times").write_text(str(time.time()))
    return {"letters": len(job.settings.text)}


STAGE = Stage("write", 1, write_text)


def run_text_stage(context: RunContext, stage: Stage = STAGE, text: str = "x", words: str = "words") -> Artefact:
    return run_stage(stage, TextSettings(text=text), {"words": TextInput(words)}, context)
