"""The commands on a recipe: run, train, finetune, sweep, status, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfplus.cli.groups import Name, Overrides
from sfplus.cli.verify import DATA, Device, Workspace

if TYPE_CHECKING:
    from sfplus.artifacts.cache import Artefact

app = typer.Typer()

Small = Annotated[bool, typer.Option("--small", help="The smallest size of the recipe that means something.")]
RunName = Annotated[str, typer.Option("--name", help="Where in runs/ the report goes, if not under the recipe's name.")]


@app.command()
def run(
    recipe: Name,
    overrides: Overrides = None,
    until: Annotated[str, typer.Option("--until", help="Stop after this stage: detect, align, train, ...")] = "",
    device: Device = "auto",
    workspace: Workspace = DATA,
    name: RunName = "",
    small: Small = False,
) -> None:
    """Run a recipe, or what of it is stale, and print the result.

    Example: sfplus run demo --until train
    """
    overrides, suffix = _sized(recipe, overrides, small)
    _run(recipe, overrides, until, device, workspace, name or suffix)


@app.command()
def train(recipe: Name, overrides: Overrides = None, device: Device = "auto", workspace: Workspace = DATA) -> None:
    """Train as a recipe says, with the stages before it where they are stale.

    Example: sfplus train sphereface-plus-m4 train.photos=my/photos
    """
    _run(recipe, overrides or [], "train", device, workspace)


@app.command()
def finetune(recipe: Name, overrides: Overrides = None, device: Device = "auto", workspace: Workspace = DATA) -> None:
    """Fine-tune as a recipe says (SphereFace+), with the stages before it where they are stale.

    Example: sfplus finetune demo finetune.energy.weight=0
    """
    _run(recipe, overrides or [], "finetune", device, workspace)


@app.command()
def sweep(
    recipe: Name,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=A,B,C]...", help="Every combination is run; KEY+KEY=A,B for keys that take the same value."
        ),
    ] = None,
    variants: Annotated[
        list[str] | None,
        typer.Option(
            "--variant", metavar="NAME:'KEY=VALUE ...'", help="A named configuration; the first is the control."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, the recipe's seeds counted up.")] = 1,
    seed_of: Annotated[
        str,
        typer.Option("--seed-of", metavar="STAGE", help="Count up this stage's seed only: finetune keeps one train."),
    ] = "",
    until: Annotated[str, typer.Option("--until", help="Stop after this stage; else where results are measured.")] = "",
    device: Device = "auto",
    workspace: Workspace = DATA,
    name: RunName = "",
    out: Annotated[Path | None, typer.Option("--out", help="Where the results go, if not to runs/.")] = None,
    small: Small = False,
) -> None:
    """Run variants of a recipe with several seeds, and tabulate mean, spread and the difference from the first.

    What was run before is never run again, and stages that variants share are run once. Exit code 1 when a run failed;
    the others are run nevertheless.

    Example: sfplus sweep demo finetune.energy.weight=0,1 finetune.energy.power=0,2 --seeds 3 --seed-of finetune
    """
    from sfplus.cli.sweep import run_sweep

    size, suffix = _sized(recipe, None, small)
    name = name or (f"{suffix}-sweep" if suffix else "")
    done = run_sweep(recipe, settings or [], variants or [], seeds, seed_of, until, device, workspace, name, out, size)
    raise typer.Exit(not done)


@app.command()
def status(
    recipe: Name, overrides: Overrides = None, workspace: Workspace = DATA, name: RunName = "", small: Small = False
) -> None:
    """Show how each stage of a recipe stands: fresh, stale (and why), partial, running, missing.

    Example: sfplus status demo
    """
    from sfplus.cli.run import open_recipe
    from sfplus.pipeline.status import standings

    overrides, suffix = _sized(recipe, overrides, small)
    for row in standings(*open_recipe(recipe, overrides, "cpu", workspace, name or suffix)):
        detail = row.reason or (str(row.artefact.folder) if row.artefact else "")
        print(f"{row.step:<18} {row.state:<8} {detail}".rstrip())


@app.command()
def export(
    recipe: Name,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the model goes: a new folder.")],
    half: Annotated[bool, typer.Option("--half", help="Store float16: half the size.")] = False,
    overrides: Overrides = None,
    device: Device = "auto",
    workspace: Workspace = DATA,
) -> None:
    """Save the model of a recipe with its threshold, for compare, embed and verify --model.

    Example: sfplus export demo my-model
    """
    from sfplus.cli.compare import export_model
    from sfplus.io.files import check_new
    from sfplus.recipes.load import find_recipe, load_recipe
    from sfplus.weights.find_model import find_model

    check_new(folder)
    artefacts = _run(recipe, overrides or [], "verify", device, workspace)
    source = load_recipe(find_recipe(recipe), overrides or []).embed.model
    export_model(artefacts, find_model(source) if source else None, folder, half)


def _sized(recipe: str, overrides: list[str] | None, small: bool) -> tuple[list[str], str]:
    """The overrides with those of the small size first, and what such a run is called."""
    if not small:
        return overrides or [], ""
    from sfplus.recipes.load import find_recipe, small_settings

    path = find_recipe(recipe)
    return [*small_settings(path), *(overrides or [])], f"{path.stem}-small"


def _run(
    recipe: str, overrides: list[str], until: str, device: str, workspace: Path, name: str = ""
) -> dict[str, Artefact]:
    from sfplus.cli.run import run_recipe

    return run_recipe(recipe, overrides, until, device, workspace, name)
