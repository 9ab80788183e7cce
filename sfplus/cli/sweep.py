"""`sfplus sweep`: run every configuration of a recipe with several seeds, and compare what comes out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sfplus.artifacts.context import Run
from sfplus.cli.run import run_folder, this_command
from sfplus.cli.sweep_results import Cell, Found, main_metric, measure, plane, published, rows_of
from sfplus.errors import SfplusError, UsageError
from sfplus.io.console import Console, ProgressLine
from sfplus.io.files import check_folder, write_atomically, write_or_remove
from sfplus.pipeline import plan as chain
from sfplus.pipeline.distributed import processes
from sfplus.recipes.load import Recipe, find_recipe, load_recipe
from sfplus.recipes.sweep_grid import Configuration, configurations, seed_overrides
from sfplus.reports.sweep_plot import sweep_curves, sweep_plot
from sfplus.reports.sweep_table import SweepTable, format_metric, to_json, to_markdown

TABLE, MARKDOWN, PLOT, CURVES, PLANE = "sweep.json", "sweep.md", "sweep.png", "curves.png", "plane.png"
_MEASURING = ("verify", "generate", "classify", "finetune", "train")


class _Console(Console):
    """One line per run: what its stages do is seen while they are at work, and what is there already is no news."""

    place, worked = "", False

    def print_fresh(self, label: str) -> None:
        """Nothing."""

    @contextmanager
    def progress(self, label: str, resumed: bool) -> Iterator[ProgressLine]:
        """The line of a stage at work, which goes away with it."""
        self.worked = True
        step = ProgressLine(f"{self.place} {label}", self)
        try:
            yield step
        finally:
            step.finish()


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
    """Run a sweep, or what of it is not there yet, and write its table, plot and curves.

    Args:
        name: of the recipe, or its file.
        settings: `key=a,b,c`.
        variants: `name:key=value key=value`.
        seeds: runs of each configuration.
        seed_of: the only stage whose seed changes; empty: all.
        until: the last stage; empty: the one that measures.
        device: what to run on.
        workspace: where cache and runs are.
        run_name: of the folder in `runs/`, if not the recipe's with `-sweep`.
        out: where the results go, if not there.
        size: overrides of all runs, before the others.

    Returns:
        Whether every run succeeded.
    """
    if processes() > 1:
        remedy = "start it once; what takes several is sfplus run with one configuration"
        raise UsageError("a sweep runs in one process", where="WORLD_SIZE", remedy=remedy)
    path = find_recipe(name)
    target = out or run_folder(workspace, run_name or f"{path.stem}-sweep")
    check_folder(target)
    cells, recipe = plan_cells(path, configurations(settings, variants, size), seeds, seed_of, until)
    for cell in cells:
        chain.check_inputs(cell.steps, workspace)
    console = _Console()
    run = Run(workspace, console, device)
    sweep = SweepTable(
        title=recipe.report.title, cells=len(cells), command=this_command(), recipe=path.read_text("utf-8"),
        published=published(recipe.report),
        versions=run.versions(), device=run.device_said,
    )  # fmt: skip
    found: dict[int, dict[str, Found]] = {}
    for index, cell in enumerate(cells):
        console.place, console.worked = f"[{index + 1}/{len(cells)}]", False
        if figures := _run_cell(cell, path.stem, run, console, sweep):
            found[index] = figures
        if console.worked:
            sweep.rows = rows_of(cells, found, path.stem, whole=False)
            _write(sweep, target)
    sweep.rows = rows_of(cells, found, path.stem)
    _write(sweep, target)
    write_or_remove(target / PLANE, plane(cells, found, path.stem))
    print(to_markdown(sweep).decode().partition("\n## How it was made")[0])
    print(f"sweep: {target / MARKDOWN}")
    return not sweep.failures


def _run_cell(cell: Cell, recipe: str, run: Run, console: _Console, sweep: SweepTable) -> dict[str, Found] | None:
    """What a run found, by step; None, and why in the sweep, where it failed."""
    label, clock = cell.label(recipe), time.monotonic()
    place = f"{console.place} {label}, seed {cell.seed}:"
    try:
        artefacts = chain.run_steps(cell.steps, run)
        found = {step: measure(step, artefacts) for step in cell.measuring}
    except Exception as error:  # whatever it is: the other runs may take days
        reason = str(error) if isinstance(error, SfplusError) else f"{type(error).__name__}: {error}"
        sweep.failures.append({"label": label, "seed": cell.seed, "reason": reason})
        console.warn(f"{place} {reason}")
        return None
    last = found[cell.measuring[-1]]
    sweep.metric = main_metric(last)
    sweep.protocol = last.result.protocol if last.result else ""
    took = f"{time.monotonic() - clock:.0f} s" if console.worked else "was there"
    console.print(f"{place} {format_metric(sweep.metric, last.metrics.get(sweep.metric, math.nan))}  ({took})")
    return found


def plan_cells(
    path: Path, chosen: Sequence[Configuration], seeds: int, seed_of: str = "", until: str = ""
) -> tuple[list[Cell], Recipe]:
    """The runs of a sweep, all configurations with the first seed first, and the recipe of the first of them.

    Raises:
        UsageError: a setting is wrong, or there is nothing to repeat.
    """
    cells = []
    for seed in range(seeds):
        for configuration in chosen:
            recipe = load_recipe(path, configuration.overrides)
            added = seed_overrides(recipe, seed, seed_of)
            if seeds > 1 and not added:
                remedy = "--seeds 1"
                raise UsageError("nothing in this recipe draws random numbers", where=f"--seeds {seeds}", remedy=remedy)
            steps = chain.plan(load_recipe(path, (*configuration.overrides, *added)))
            have = {step.stage.name for step in steps}
            last = until or next((name for name in _MEASURING if name in have), steps[-1].stage.name)
            cells.append(Cell(configuration, seed, chain.closure(steps, last)))
    if any(cell.measuring != cells[0].measuring for cell in cells):
        raise UsageError("these configurations are measured by different stages", where=path, remedy="add --until")
    return cells, load_recipe(path, chosen[0].overrides)


def _write(sweep: SweepTable, folder: Path) -> None:
    """Write what is known so far."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / TABLE, to_json(sweep))
    write_atomically(folder / MARKDOWN, to_markdown(sweep))
    write_or_remove(folder / PLOT, sweep_plot(sweep) if sweep.rows else None)
    write_or_remove(folder / CURVES, sweep_curves(sweep) if sweep.rows else None)
