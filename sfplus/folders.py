"""Commands on a folder of photos: detect, align, embed. Results go to OUT; their cache lies in OUT/.sfplus."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from sfplus import chain
from sfplus.chain import From, Input, Model, Photos, Step
from sfplus.console import Console
from sfplus.errors import UsageError
from sfplus.recipe import Recipe
from sfplus.shipped import DEFAULT_MODEL
from sfplus.stages import align, detect, embed
from sfplus.stages.cache import Artefact
from sfplus.stages.run import Run
from sfplus.stages.tables import FAILURES, read_lines

_SHOWN = 5  # failures that are printed; failures.jsonl has all of them


def detect_folder(photos: Path, out: Path, device: str) -> int:
    """Faces of a folder of photos as tables in `out`; returns the exit code."""
    done = _run(photos, out, device, Recipe(), [])
    for name in (detect.FACES, detect.PHOTOS, FAILURES):
        chain.copy_changed(done["detect/photos"].folder / name, out / name)
    return _close(done["detect/photos"], out)


def align_folder(photos: Path, out: Path, template: str, device: str) -> int:
    """Crops of a folder of photos in the same tree under `out`, with the tables; returns the exit code."""
    if template not in ("sphereface-112x96", "arcface-112x112"):
        raise UsageError(f"there is no template '{template}'", where="--template", remedy="see: sfplus align --help")
    recipe = Recipe.model_validate({"align": {"template": template}})
    done = _run(photos, out, device, recipe, [])
    _publish_crops(done, out)
    return _close(done["align/photos"], out)


def embed_folder(photos: Path, out: Path, model: str, device: str) -> int:
    """Features of a folder of photos, with their index, in `out`; returns the exit code."""
    inputs: dict[str, Input] = {"crops": From("align/photos"), "model": Model(model or DEFAULT_MODEL)}
    done = _run(photos, out, device, Recipe(), [Step("embed", embed.STAGE, embed.EmbedSettings(), inputs)])
    for name in (embed.FEATURES, embed.INDEX):
        chain.copy_changed(done["embed"].folder / name, out / name)
    chain.copy_changed(done["align/photos"].folder / FAILURES, out / FAILURES)
    return _close(done["align/photos"], out)


def _run(photos: Path, out: Path, device: str, recipe: Recipe, more: list[Step]) -> dict[str, Artefact]:
    _keep_apart(photos, out)
    run = Run(out / ".sfplus", Console(), device)
    steps = chain.crop_steps(Photos(photos), recipe, "photos") + more
    return chain.run_steps(steps, run)


def _keep_apart(photos: Path, out: Path) -> None:
    """The user's photos are never written to: OUT may not lie in IN, nor IN in OUT."""
    source, target = photos.resolve(), out.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise UsageError("OUT and IN lie in one another", where=out, remedy="choose an OUT beside the photos")


def _publish_crops(done: dict[str, Artefact], out: Path) -> None:
    folder = done["align/photos"].folder
    for name in align_names(folder):
        chain.copy_changed(folder / align.CROPS / name, out / name)
    for source in (done["detect/photos"].folder / detect.FACES, folder / FAILURES):
        chain.copy_changed(source, out / source.name)


def align_names(folder: Path) -> list[str]:
    """The crops of an align artefact, as paths relative to its folder of crops."""
    from sfplus.stages.tables import read_table

    return list(read_table(folder / align.TABLE)["crop"])


def _close(artefact: Artefact, out: Path) -> int:
    """Say what did not work; 1 when a photo could not be used, 0 when at most faces were missing."""
    failures = read_lines(artefact.folder / FAILURES)
    for row in failures[:_SHOWN]:
        print(f"{row['photo']!r}: {row['reason']}; {row['remedy']}", file=sys.stderr)
    if len(failures) > _SHOWN:
        print(f"... and {len(failures) - _SHOWN} more, in {out / FAILURES}", file=sys.stderr)
    missed = Counter(row["reason"] == "no face found" for row in failures)
    counts = artefact.manifest["counts"]
    made = f"{counts['crops']} crops" if "crops" in counts else f"{counts['faces']} faces in {counts['photos']} photos"
    print(f"{made}, {missed[True]} photos without a face, {missed[False]} failed: {out}")
    return 1 if missed[False] else 0
