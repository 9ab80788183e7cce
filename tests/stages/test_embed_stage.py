"""The stage `embed`: a run that was stopped continues, and ends with the features of an undisturbed one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from result_files import read_parquet
from teacher_models import random_crops
from torch import Tensor, nn

import sfplus.stages.embed as stage
from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.cache import run_stage
from sfplus.artifacts.context import RunContext
from sfplus.artifacts.inputs import ModelInput
from sfplus.artifacts.layout import FEATURE_INDEX, FEATURES
from sfplus.images import encode_image
from sfplus.io.console import Console
from sfplus.io.tables import FAILURES
from sfplus.recipes.settings.embed import EmbedSettings
from sfplus.weights.find_model import ModelSource

RESULTS = (FEATURES, FEATURE_INDEX, FAILURES)


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """A folder of 30 crops, and one file that is none: 4 passes, of 8 crops with their mirror images at most."""
    for name, pixels in random_crops(30).items():
        path = tmp_path / "crops" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(pixels, ".png"))
    (tmp_path / "crops/person 0/broken.jpg").write_bytes(b"x")
    return tmp_path / "crops"


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of crops of each pass of the network; at the pass in `stop`, the user presses Ctrl-C."""
    monkeypatch.setattr(stage, "BATCHES", 1)
    done: list[int] = []
    compute = stage.embed_batches

    def record(network: nn.Module, batches: Iterator[Tensor], *rest: object) -> Iterator[object]:
        def stopped() -> Iterator[Tensor]:
            for batch in batches:
                if len(done) == record.stop:
                    raise KeyboardInterrupt
                done.append(len(batch))
                yield batch

        return compute(network, stopped(), *rest)

    record.stop = -1
    monkeypatch.setattr(stage, "embed_batches", record)
    return done


def embed(workspace: Path, crops: Path, model: Path) -> Artefact:
    settings, source = EmbedSettings(), ModelInput(ModelSource(str(model)))
    context = RunContext(workspace, Console(quiet=True), "cpu")
    return run_stage(settings.stage, settings, {"crops": context.photo_folder(crops), "model": source}, context)


@pytest.mark.parametrize("stop", [0, 1, 2, 3])
def test_a_stopped_run_continues_after_its_last_part(
    stop: int, crops: Path, passes: list[int], untrained_model: Path, tmp_path: Path
) -> None:
    whole = embed(tmp_path / "whole", crops, untrained_model)
    assert passes == [8, 7, 8, 7] and whole.manifest["counts"]["crops"] == 30
    assert len(read_parquet(whole.folder / FEATURE_INDEX)["photo"]) == 30
    passes.clear()
    stage.embed_batches.stop = stop  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path / "stopped", crops, untrained_model)
    parts = list(tmp_path.glob("stopped/cache/embed/*.parts/*.npy"))
    assert len(parts) == len(passes) == stop
    stage.embed_batches.stop = -1  # type: ignore[attr-defined]
    again = embed(tmp_path / "stopped", crops, untrained_model)
    assert sum(passes) == 30, "no crop is computed twice"
    for name in RESULTS:
        assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert again.content == whole.content
    assert {path.name for path in again.folder.parent.iterdir()} == {
        path.name for path in whole.folder.parent.iterdir()
    }


def test_a_damaged_part_is_computed_again(
    crops: Path, passes: list[int], untrained_model: Path, tmp_path: Path
) -> None:
    whole = embed(tmp_path / "whole", crops, untrained_model)
    passes.clear()
    stage.embed_batches.stop = 3  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path / "stopped", crops, untrained_model)
    stage.embed_batches.stop = -1  # type: ignore[attr-defined]
    first, second, _ = sorted(tmp_path.glob("stopped/cache/embed/*.parts/*.npy"))
    first.write_bytes(bytes(first.stat().st_size))
    second.unlink()
    passes.clear()
    again = embed(tmp_path / "stopped", crops, untrained_model)
    assert len(passes) == 3 and again.content == whole.content
    assert torch.equal(*(torch.from_numpy(stage.read_features(one.folder)[0]) for one in (again, whole)))
