"""A simulated power cut at every write of every stage: the rerun ends in the same artefacts.

One run is recorded. At each flush and each move of a file, the workspace is copied as a disk may look after a power cut
at this moment: files that were written but not flushed since are empty, cut in half or full of zeros, or are missing.
Then the run is repeated in the copy.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.context import RunContext
from sfplus.errors import SfplusError
from sfplus.io.console import Console
from sfplus.pipeline.execute import run_steps
from sfplus.pipeline.plan import plan
from sfplus.recipes.load import load_recipe
from sfplus.recipes.steps import Step

_RECIPE = """
sample: {people: 7, photos: 3, verify_people: 4, folds: 2, pairs_per_fold: 2}
detect: {min_face: 80, factor: 0.6}
align: {template: sphereface-112x96}
train:
  {network: sphereface4, width: 0.125, feature_size: 16, steps: [], batch_size: 8, base_lr: 0.01, max_iter: 6,
   log_every: 1, checkpoint_every: 2, head: {name: cosface},
   teacher: {model: 'teacher_models:colour_network', input: sphereface}}
identify: {photos: PHOTOS, crops: true}
verify: {protocol: sphereface}
"""
STAGES = ("sample", "detect", "align", "teach", "train", "embed", "identify", "verify", "report")
DAMAGES = ("empty", "half", "zeros", "missing")
_RESUMED = ("detect", "align", "teach", "train")  # the others start again


@dataclass
class Disk:
    """What a disk has flushed while a run writes to a folder.

    Attributes:
        root: The folder.
        copies: A folder for copies of it, or None to count the moments only.
        chosen: The numbers of the moments at which it is copied.
        count: The number of moments so far.
        flushed: The size and modification time of each flushed file by its inode, and the names of each flushed folder.
    """

    root: Path
    copies: Path | None = None
    chosen: frozenset[int] = frozenset()
    count: int = 0
    flushed: dict[int, object] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record the flushes and moves of this process."""
        fsync, replace = os.fsync, os.replace

        def flush(descriptor: int) -> None:
            with self.lock:
                self._moment()
                self._remember(Path(f"/proc/self/fd/{descriptor}"))
            fsync(descriptor)

        def move(source: object, target: object, **options: object) -> None:
            with self.lock:
                self._moment()
                replace(source, target, **options)  # type: ignore[call-overload]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", flush)
            patch.setattr(os, "replace", move)
            yield

    def flush_everything(self) -> None:
        """Flush all files and folders that exist."""
        for path in (self.root, *self.root.rglob("*")):
            self._remember(path)

    def _remember(self, path: Path) -> None:
        status = path.stat()
        names = frozenset(entry.name for entry in path.iterdir()) if path.is_dir() else None
        self.flushed[status.st_ino] = (status.st_size, status.st_mtime_ns) if names is None else names

    def _moment(self) -> None:
        self.count += 1
        if self.copies and self.count in self.chosen:
            for damage in DAMAGES:
                _copy_damaged(self.root, self.copies / f"{self.count:05}-{damage}", damage, self.flushed)


def _copy_damaged(source: Path, target: Path, damage: str, flushed: dict[int, object]) -> None:
    """Copy a folder; of files that were not flushed only what the damage leaves, with their size and time."""
    target.mkdir(parents=True)
    names = flushed.get(source.stat().st_ino, frozenset())
    for path in sorted(source.iterdir()):
        with contextlib.suppress(FileNotFoundError):  # a temporary file of another thread
            status = path.stat()
            if path.is_dir():
                _copy_damaged(path, target / path.name, damage, flushed)
                continue
            state, data = flushed.get(status.st_ino), path.read_bytes()
            if state != (status.st_size, status.st_mtime_ns):
                kept = state[0] if isinstance(state, tuple) and state[0] <= len(data) else 0
                if damage == "missing" and path.name not in names:  # type: ignore[operator]
                    continue
                lost = len(data) - kept
                tails = {"empty": b"", "half": data[kept : kept + lost // 2], "zeros": b"\0" * lost, "missing": b""}
                data = data[:kept] + tails[damage]
            (target / path.name).write_bytes(data)
            shutil.copystat(path, target / path.name)


def run(root: Path, steps: list[Step]) -> dict[str, Artefact]:
    """Run steps with the workspace and the home in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFPLUS_HOME", str(root / "home"))
        return run_steps(steps, RunContext(root / "data", Console(quiet=True), "cpu"), root / "data/run.json")


def contents(artefacts: dict[str, Artefact]) -> dict[str, str]:
    """Return the content digest of each artefact, from its files."""
    assert not [name for name, artefact in artefacts.items() if artefact.find_damage(all_content=True)]
    return {name: artefact.content for name, artefact in artefacts.items()}


def find_differences(folder: Path, steps: list[Step], stage: str, cases: int | None = None) -> tuple[int, list[str]]:
    """Cut the power while a stage runs, at evenly spaced moments, and run it again.

    Args:
        folder: A new folder.
        steps: The steps up to this stage.
        stage: The stage.
        cases: The number of cases; None for all.

    Returns:
        The number of cases, and those that ended in another artefact or in more than one line.
    """
    last = max(index for index, step in enumerate(steps) if step.stage.name == stage)
    first = next(index for index, step in enumerate(steps) if step.stage.name == stage)
    if first:
        run(folder / "before", steps[:first])
    else:
        (folder / "before").mkdir(parents=True)
    shutil.copytree(folder / "before", folder / "counted")
    disk = Disk(folder / "counted")
    with disk.recording():
        expected = contents(run(folder / "counted", steps[: last + 1]))
    moments = range(1, disk.count + 1)
    step = 1 if cases is None else max(1, len(moments) * len(DAMAGES) // cases)
    chosen = frozenset(moments[step // 2 :: step])
    disk = Disk(folder / "before", folder / "cut", chosen)
    disk.flush_everything()
    with disk.recording():
        run(folder / "before", steps[: last + 1])
    differences = []
    for copy in sorted((folder / "cut").iterdir()):
        try:
            if contents(run(copy, steps[: last + 1])) != expected:
                differences.append(f"{stage} {copy.name}: another artefact")
        except SfplusError as error:
            if "\n" in str(error):
                differences.append(f"{stage} {copy.name}: {error}")
        except Exception as error:  # every other exception is a difference, too
            differences.append(f"{stage} {copy.name}: {type(error).__name__} {error}")
        shutil.rmtree(copy)
    return len(chosen) * len(DAMAGES), differences


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    folder = tmp_path_factory.mktemp("recipe")
    rng = np.random.default_rng(0)
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (folder / "crops" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (112, 96, 3), dtype=np.uint8)).save(folder / "crops" / name)
    path = folder / "small.yaml"
    path.write_text(_RECIPE.replace("PHOTOS", str(folder / "crops")))
    return plan(load_recipe(path, []))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is damaged")
@pytest.mark.parametrize("stage", STAGES)
def test_the_artefacts_after_a_power_cut_are_those_of_an_undisturbed_run(
    stage: str, steps: list[Step], tmp_path: Path
) -> None:
    count, differences = find_differences(tmp_path, steps, stage, 8 if stage in _RESUMED else 4)
    assert count >= 4 and not differences, json.dumps(differences, indent=1)
