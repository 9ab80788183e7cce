"""Commands on a recipe: open it, run it, print what came out."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sfplus.artifacts.cache import Artefact
from sfplus.artifacts.context import Run, is_first
from sfplus.errors import UsageError
from sfplus.io.console import Console
from sfplus.io.files import check_folder
from sfplus.io.tables import FAILURES, read_failures
from sfplus.pipeline import plan as chain
from sfplus.pipeline.distributed import own_device
from sfplus.recipes.load import PICTURES, find_recipe, load_recipe
from sfplus.weights.find_model import find_model


def open_recipe(
    name: str, overrides: Sequence[str], device: str, workspace: Path, run_name: str = "", command: str = ""
) -> tuple[list[chain.Step], Run, Path]:
    """The steps of a recipe, the run they belong to, and the file that records what was run."""
    path = find_recipe(name)
    folder = run_folder(workspace, run_name or path.stem)
    run = Run(workspace, Console(quiet=not is_first()), own_device(device))
    command = command or _command(name, overrides)
    return chain.plan(load_recipe(path, overrides), _text(path, overrides), command), run, folder / "run.json"


def _command(name: str, overrides: Sequence[str]) -> str:
    return shlex.join(["sfplus", "run", name, *overrides])


def _text(path: Path, overrides: Sequence[str]) -> str:
    return path.read_text("utf-8") + "".join(f"# changed on the command line: {o}\n" for o in overrides)


def run_folder(workspace: Path, name: str) -> Path:
    """Where a person looks for the results of a run.

    Raises:
        UsageError: this is no name for a folder.
    """
    if name != Path(name).name or name.startswith("."):
        raise UsageError("is no name for a folder", where=f"--name {name}", remedy="use letters, digits and dashes")
    return workspace / "runs" / name


def run_recipe(
    name: str,
    overrides: Sequence[str],
    until: str,
    device: str,
    workspace: Path,
    run_name: str = "",
    against: str = "",
    out: Path | None = None,
    command: str = "",
) -> dict[str, Artefact]:
    """Run a recipe up to a stage, or whole; print its results and where they are.

    Args:
        name: of the recipe, or its file.
        overrides: `key=value`.
        until: the last stage to run.
        device: what to run on.
        workspace: where cache and runs are.
        run_name: of the folder in `runs/`, if not the recipe's.
        against: a second model to verify on the same crops and pairs, shown beside the recipe's own.
        out: where the report goes, if not to the folder in `runs/`.
        command: what the report says makes it again, if not `sfplus run`.
    """
    steps, run, record = open_recipe(name, overrides, device, workspace, run_name, command)
    check_folder(out or record.parent)
    if against:
        steps = _with_other(steps, against)
    if until:
        steps = chain.closure(steps, until)
    artefacts = chain.run_steps(steps, run, record)
    if not is_first():
        return artefacts
    _say_failures(artefacts, run.console)
    for step, artefact in artefacts.items():
        if step.startswith("verify/"):
            print(chain.headline(step, artefact))
    last = steps[-1].name
    if "report" in artefacts:
        print(f"report: {chain.publish_report(artefacts['report'], out or record.parent)}")
    elif last in PICTURES:
        from sfplus.cli.sweep_results import publish_figures  # matplotlib is slow to import

        path, command = find_recipe(name), command or _command(name, overrides)
        about = path.stem, load_recipe(path, overrides).report, _text(path, overrides), command
        print(f"result: {publish_figures(last, artefacts[last], out or record.parent, *about)}")
    else:
        print(f"{last}: {artefacts[last].folder}")
    return artefacts


def _with_other(steps: Sequence[chain.Step], model: str) -> list[chain.Step]:
    """The steps of a verification, and before its own model another one on the same crops and pairs."""
    *first, embed, verify, report = steps
    own, other = embed.inputs["model"], chain.Model(model)
    if isinstance(own, chain.Model) and find_model(own.name).resolve() == find_model(model).resolve():
        raise UsageError("is the model itself", where=f"--against {model}", remedy="name another one")
    added = [
        replace(embed, name="embed/against", inputs={**embed.inputs, "model": other}),
        replace(verify, name="verify/against", inputs={**verify.inputs, "features": chain.From("embed/against")}),
    ]
    shown: dict[str, chain.Input] = {"verify/against": chain.From("verify/against"), "model/against": other}
    return [*first, *added, embed, verify, replace(report, inputs={**shown, **report.inputs})]


def verify_photos(
    photos: Path,
    pairs: Path | None,
    model: str,
    against: str,
    protocol: str,
    undetected: str,
    device: str,
    workspace: Path,
    out: Path | None,
    command: str,
) -> None:
    """Run the recipe `lfw` on other photos and pairs; the pairs may lie in or beside the photos.

    Raises:
        UsageError: there is no list of pairs, or `against` is no model.
    """
    pairs = pairs or next((f for f in (photos / "pairs.txt", photos.parent / "pairs.txt") if f.is_file()), None)
    if pairs is None:
        raise UsageError(
            "there is no pairs.txt in it or beside it", where=photos, remedy="give its path, or: sfplus lfw"
        )
    if Path(against).suffix in (".npz", ".safetensors", ".parquet"):
        remedy = "give a model, or both as features: sfplus embed makes them"
        raise UsageError("is a file of features, beside photos", where=f"--against {against}", remedy=remedy)
    values = {"verify.photos": photos, "verify.pairs": pairs, "verify.undetected": undetected, "embed.model": model,
              "verify.protocol": protocol}  # fmt: skip
    overrides = [f"{key}={json.dumps(str(value))}" for key, value in values.items() if value]
    run_recipe("lfw", overrides, "", device, workspace, against=against, out=out, command=command)


def this_command() -> str:
    """The command line as it was given, for a report to repeat."""
    return shlex.join(["sfplus", *sys.argv[1:]])


def _say_failures(artefacts: Mapping[str, Artefact], console: Console) -> None:
    """Photos that were not used: how many, and which file names them."""
    for step, artefact in artefacts.items():
        missed, failed = read_failures(artefact.folder) if step.startswith("align/") else ([], [])
        if missed or failed:
            counts = f"{len(missed)} photos without a face, {len(failed)} failed"
            console.warn(f"{step}: {counts}: {artefact.folder / FAILURES}")
