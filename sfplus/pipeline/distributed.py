"""A recipe in the processes of torchrun or accelerate launch.

Every process takes part in training. Detection and alignment are shared among the processes; the first process runs
the other stages. The processes meet in the workspace, which must be a folder that all of them see. When a process
fails, the launcher ends the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.cache import run_stage
from sfplus.artifacts.context import RunContext, is_first
from sfplus.artifacts.inputs import StageInput
from sfplus.artifacts.stage import Job, Stage, partial_folder
from sfplus.errors import ArtefactError
from sfplus.io.files import digest_json

_POLL_SECONDS = 0.1  # between two looks at the workspace


def process_count() -> int:
    """Return the number of processes that the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def count_local_steps(stages: Sequence[Stage]) -> int:
    """Return the number of stages, from the start, that this process takes part in.

    Stages after the last one that is trained or shared are left to the first process.
    """
    if is_first():
        return len(stages)
    return max((i + 1 for i, stage in enumerate(stages) if stage.share or stage.trains), default=0)


def run_stage_in_all_processes(
    stage: Stage, settings: BaseModel, inputs: Mapping[str, StageInput], context: RunContext, label: str
) -> Artefact:
    """Return the artefact of a stage, as `run_stage` does; every process calls this."""
    if process_count() == 1:
        return run_stage(stage, settings, inputs, context, label)
    folder = context.artefact_folder(stage.name, digest_json(stage.identity(settings, inputs)))
    if stage.trains:
        if is_first():
            return _train_as_first(stage, settings, inputs, context, label)
        return _train_with_first(stage, settings, inputs, context, folder, label)
    if not is_first():
        # Wait until the first process holds the lock, so that it is the one that reports progress.
        while not (_is_there(folder) or partial_folder(folder).exists()):
            time.sleep(_POLL_SECONDS)
    return run_stage(stage, settings, inputs, context, label)


def _is_there(folder: Path) -> bool:
    try:
        return Artefact.open(folder) is not None
    except ArtefactError:  # its manifest is damaged: the first process builds it again
        return False


def _train_as_first(
    stage: Stage, settings: BaseModel, inputs: Mapping[str, StageInput], context: RunContext, label: str
) -> Artefact:
    started = False

    def build(job: Job[Any]) -> dict[str, Any]:
        nonlocal started
        started = _agree_to_start(context, True)
        return stage.build(job)

    artefact = run_stage(replace(stage, build=build), settings, inputs, context, label)
    if not started:
        _agree_to_start(context, False)
    return artefact


def _train_with_first(
    stage: Stage,
    settings: BaseModel,
    inputs: Mapping[str, StageInput],
    context: RunContext,
    folder: Path,
    label: str,
) -> Artefact:
    if _agree_to_start(context, False):
        with context.console.progress(label, resumed=False) as progress:
            stage.build(Job(settings, inputs, partial_folder(folder), context.with_progress(progress)))
    return _wait_for_artefact(folder)


def _agree_to_start(context: RunContext, starts: bool) -> bool:
    """Return whether the first process starts to build; all processes wait for one another here."""
    from sfplus.training.distributed import ProcessGroup  # imports torch; a single process never comes here

    return ProcessGroup(context.device).largest(int(starts)) > 0


def _wait_for_artefact(folder: Path) -> Artefact:
    while not (artefact := Artefact.open(folder)):
        time.sleep(_POLL_SECONDS)
    return artefact
