"""Run variants of a recipe with several seeds, and compare the results."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from sfplus.artifacts.context import RunContext
from sfplus.artifacts.layout import CURVES, FEATURE_PLOT
from sfplus.cli.command import App
from sfplus.cli.options import DATA, Device, RecipeName, RunName, Small, Title, Workspace
from sfplus.cli.run import apply_small, run_folder, this_command, title_override
from sfplus.cli.step_results import StepResult, main_metric, measure
from sfplus.cli.sweep_results import Cell, feature_plots, published_rows, table_rows
from sfplus.errors import SfplusError, UsageError, one_line
from sfplus.io.console import Console, ProgressLine
from sfplus.io.files import check_folder, write_atomically, write_or_remove
from sfplus.io.loggers import get_logger
from sfplus.io.memory import keep_freed_memory
from sfplus.pipeline.distributed import process_count
from sfplus.pipeline.execute import run_steps
from sfplus.pipeline.hold_out import hold_out
from sfplus.pipeline.plan import check_inputs, plan, steps_until
from sfplus.recipes.load import find_recipe, load_recipe
from sfplus.recipes.recipe import Recipe
from sfplus.recipes.sweep_grid import Configuration, configurations, seed_overrides
from sfplus.reports.sweep_plot import sweep_curves, sweep_plot
from sfplus.reports.sweep_table import SweepTable, format_metric, to_html, to_json, to_markdown, to_text

_log = get_logger(__name__)

app = App()
TABLE, MARKDOWN, PAGE, PLOT = "sweep.json", "sweep.md", "sweep.html", "sweep.png"


@app.command()
def sweep(
    recipe: RecipeName,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=A,B,C",
            help="Every combination is run; KEY+KEY=A,B for keys that take the same value.",
        ),
    ] = None,
    variants: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            metavar="NAME:SETTINGS",
            help="A named configuration: large:'train.width=2 train.seed=1'; the first is the control.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Runs of each configuration, with the seeds of the recipe, plus 1, plus 2, ...")
    ] = 1,
    seed_of: Annotated[
        str,
        typer.Option(
            "--seed-of", metavar="STAGE", help="Change only the seed of this stage: with finetune, train runs once."
        ),
    ] = "",
    until: Annotated[
        str, typer.Option("--until", help="Stop after this stage, not after the last one that measures.")
    ] = "",
    device: Device = "auto",
    workspace: Workspace = DATA,
    name: RunName = "",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The folder for the results, if not in runs/.")
    ] = None,
    title: Title = "",
    small: Small = False,
) -> None:
    """Run variants of a recipe with several seeds, and tabulate mean, spread and the difference from the control.

    A run that exists is never repeated, and stages that variants share are run once. The exit code is 1 if a run
    failed; the others are run nevertheless.

    Example: sfplus sweep demo finetune.energy.weight=0,1 finetune.energy.power=0,2 --seeds 3 --seed-of finetune
    """
    size, small_name = apply_small(recipe, None, small)
    name = name or (f"{small_name}-sweep" if small_name else "")
    size += title_override(title)
    succeeded = run_sweep(
        recipe, settings or [], variants or [], seeds, seed_of, until, device, workspace, name, out, size
    )
    raise typer.Exit(not succeeded)


class _RunConsole(Console):
    """A console with one line per run: stages are shown while they run, and fresh stages are not reported.

    Attributes:
        prefix: The number of the run, before the label of each stage.
        worked: Whether a stage of the run had to be built.
    """

    prefix, worked = "", False

    def print_fresh(self, label: str) -> None:
        """Report nothing."""

    @contextmanager
    def progress(self, label: str, resumed: bool) -> Iterator[ProgressLine]:
        """Show the progress line of a stage while it runs."""
        self.worked = True
        progress = ProgressLine(f"{self.prefix} {label}", self)
        try:
            yield progress
        finally:
            progress.finish()


def run_sweep(
    name: str,
    settings: Sequence[str],
    variants: Sequence[str],
    seeds: int,
    seed_of: str,
    until: str,
    device: str,
    workspace: Path,
    run_name: str = "",
    out: Path | None = None,
    size: Sequence[str] = (),
) -> bool:
    """Run the missing runs of a sweep, and write its table, page, plot and curves.

    Args:
        name: The name of the recipe, or its file.
        settings: `key=a,b,c`.
        variants: `name:key=value key=value`.
        seeds: The number of runs of each configuration.
        seed_of: The only stage whose seed changes; empty for all stages.
        until: The last stage; empty for the last one that measures.
        device: The device to run on.
        workspace: The folder of cache and runs.
        run_name: The folder in `runs/`; empty for the name of the recipe with `-sweep`.
        out: The folder for the results, if not in `runs/`.
        size: Overrides of all runs, before the others.

    Returns:
        Whether every run succeeded.
    """
    if process_count() > 1:
        remedy = "start it once; several processes are for sfplus run with one configuration"
        raise UsageError("a sweep runs in one process", where="WORLD_SIZE", remedy=remedy)
    path = find_recipe(name)
    target = out or run_folder(workspace, run_name or f"{path.stem}-sweep")
    check_folder(target)
    cells, recipe = plan_cells(path, configurations(settings, variants, size), seeds, seed_of, until, workspace)
    for cell in cells:
        check_inputs(cell.steps, workspace)
    keep_freed_memory()
    console = _RunConsole()
    context = RunContext(workspace, console, device)
    table = SweepTable(
        title=recipe.report.title or f"Sweep of {path.stem}", cells=len(cells),
        command=this_command(), recipe=path.read_text("utf-8"), published=published_rows(recipe.report),
        versions=context.versions(), device=context.device_description,
    )  # fmt: skip
    results: dict[int, dict[str, StepResult]] = {}
    writing = 0.0  # seconds that the last results took
    for index, cell in enumerate(cells):
        clock = time.monotonic()
        console.prefix, console.worked = f"[{index + 1}/{len(cells)}]", False
        if measured := _run_cell(cell, path.stem, context, console, table):
            results[index] = measured
        done = time.monotonic()
        if console.worked and done - clock > writing:  # quick runs do not wait for plots
            table.rows = table_rows(cells, results, path.stem, final=False)
            _write(table, target)
            writing = time.monotonic() - done
    table.rows = table_rows(cells, results, path.stem)
    _write(table, target)
    write_or_remove(target / FEATURE_PLOT, feature_plots(cells, results, path.stem))
    print(to_text(table, min(shutil.get_terminal_size().columns, 120)))
    for failure in table.failures:
        print(one_line(f"failed: {failure['label']}, seed {failure['seed']}: {failure['reason']}"))
    print(f"sweep: {target / PAGE}")
    return not table.failures


def _run_cell(
    cell: Cell, recipe: str, context: RunContext, console: _RunConsole, table: SweepTable
) -> dict[str, StepResult] | None:
    """Run a cell and return its results by step; None if it failed, with the reason in the table."""
    label, clock = cell.label(recipe), time.monotonic()
    prefix = f"{console.prefix} {label}, seed {cell.seed}:"
    try:
        artefacts = run_steps(cell.steps, context)
        results = {step: measure(step, artefacts) for step in cell.measuring}
    except Exception as error:  # of any kind: the other runs may take days
        reason = str(error) if isinstance(error, SfplusError) else f"{type(error).__name__}: {error}"
        table.failures.append({"label": label, "seed": cell.seed, "reason": reason})
        _log.warning("%s %s", prefix, reason)
        return None
    last = results[cell.measuring[-1]]
    table.metric = main_metric(last)
    table.protocol = last.result.protocol if last.result else ""
    duration = f"{time.monotonic() - clock:.0f} s" if console.worked else "fresh"
    figure = format_metric(table.metric, last.metrics.get(table.metric, math.nan))
    _log.info("%s %s  (%s)", prefix, figure, duration)
    return results


def plan_cells(
    path: Path, grid: Sequence[Configuration], seeds: int, seed_of: str = "", until: str = "", workspace: Path = DATA
) -> tuple[list[Cell], Recipe]:
    """Return the runs of a sweep, with all configurations of the first seed first, and the recipe of the first run.

    Raises:
        UsageError: If a setting is wrong, or there is nothing to repeat.
    """
    cells = []
    # the control of a sweep is its first configuration
    alone = ["finetune.control=false"] if load_recipe(path, grid[0].overrides).finetune else []
    for seed in range(seeds):
        for configuration in grid:
            overrides = seed_overrides(load_recipe(path, configuration.overrides), seed, seed_of)
            if seeds > 1 and not overrides:
                reason = "nothing in this recipe draws random numbers"
                raise UsageError(reason, where=f"--seeds {seeds}", remedy="--seeds 1")
            settings = load_recipe(path, (*alone, *configuration.overrides, *overrides))
            steps = plan(hold_out(settings, workspace))
            measuring = [step.stage.name for step in steps if step.stage.measures]
            last = until or (measuring[-1] if measuring else steps[-1].stage.name)
            also = ("identify",) if not until and "identify" in measuring else ()
            cells.append(Cell(configuration, seed, steps_until(steps, last, *also)))
    if any(cell.measuring != cells[0].measuring for cell in cells):
        raise UsageError("these configurations are measured by different stages", where=path, remedy="add --until")
    return cells, load_recipe(path, grid[0].overrides)


def _write(table: SweepTable, folder: Path) -> None:
    """Write the results so far."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / TABLE, to_json(table))
    write_atomically(folder / MARKDOWN, to_markdown(table))
    plot, curves = (sweep_plot(table), sweep_curves(table)) if table.rows else (None, None)
    write_or_remove(folder / PLOT, plot)
    write_or_remove(folder / CURVES, curves)
    plots = {"Each configuration, with the standard deviation over its seeds": plot, "Training": curves}
    write_atomically(folder / PAGE, to_html(table, plots))
