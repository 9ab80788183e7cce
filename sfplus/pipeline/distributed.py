"""A recipe in the processes of torchrun or accelerate launch: all train; the first does the rest, and others help.

They meet in the workspace, which must be a folder that all of them see. A process that fails ends its launcher, and
with it the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sfplus.artifacts.cache import Artefact, Job, Stage, partial_folder
from sfplus.artifacts.context import Run, is_first
from sfplus.artifacts.inputs import Source
from sfplus.io.files import digest_json

TRAINED = ("train", "finetune", "classify", "generate")  # stages that all processes build together
_PAUSE = 0.1  # seconds between two looks at the workspace


def processes() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def own_device(device: str) -> str:
    """The device of this process: those that were started together take a GPU each."""
    if device in ("auto", "cuda") and processes() > 1:
        import torch

        if count := torch.cuda.device_count():
            return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % count}"
    return device


def own_part(stages: Sequence[Stage]) -> int:
    """How many of the stages this process takes part in: those after the last one to help with are the first's."""
    if is_first():
        return len(stages)
    return max((i + 1 for i, stage in enumerate(stages) if stage.share or stage.name in TRAINED), default=0)


def run_stage(stage: Stage, settings: BaseModel, inputs: Mapping[str, Source], run: Run, label: str) -> Artefact:
    """The artefact of a stage, as `Stage.run`; each process calls this."""
    if processes() == 1:
        return stage.run(settings, inputs, run, label)
    folder = run.artefact_folder(stage.name, digest_json(stage.identity(settings, inputs)))
    if stage.name in TRAINED:
        if not is_first():
            return _follow(stage, settings, inputs, run, folder, label)
        return _lead(stage, settings, inputs, run, label)
    if not is_first():
        while not (Artefact.open(folder) or partial_folder(folder).exists()):  # that one has the lock, and talks
            time.sleep(_PAUSE)
    return stage.run(settings, inputs, run, label)


def _lead(stage: Stage, settings: BaseModel, inputs: Mapping[str, Source], run: Run, label: str) -> Artefact:
    begun = False

    def build(job: Job) -> dict[str, Any]:
        nonlocal begun
        begun = _agree(run, True)
        return stage.build(job)

    artefact = replace(stage, build=build).run(settings, inputs, run, label)
    if not begun:
        _agree(run, False)
    return artefact


def _follow(
    stage: Stage, settings: BaseModel, inputs: Mapping[str, Source], run: Run, folder: Path, label: str
) -> Artefact:
    if _agree(run, False):
        with run.console.progress(label, resumed=False) as step:
            stage.build(Job(settings, inputs, partial_folder(folder), run.at(step)))
    return _await(folder)


def _agree(run: Run, begins: bool) -> bool:
    """Whether the first process says that it begins to build; all wait here for one another."""
    import torch

    from sfplus.training.distributed import Processes

    together = Processes(run.device)
    return bool(together.mean(torch.tensor(float(begins), device=together.device.torch)) > 0)


def _await(folder: Path) -> Artefact:
    while not (artefact := Artefact.open(folder)):
        time.sleep(_PAUSE)
    return artefact
