"""Run a recipe, or the stale part of it, and print the result."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sfplus.alignment.templates import find_template
from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.context import RunContext, is_first
from sfplus.artifacts.layout import REPORT_HTML, REPORT_JSON, REPORT_MARKDOWN, read_identification
from sfplus.artifacts.model_facts import ModelFacts, name_models
from sfplus.cli.command import App
from sfplus.cli.json_results import IdentifiedModel, RunResult, VerifiedModel, print_result
from sfplus.cli.options import (
    DATA,
    AsJson,
    Device,
    Overrides,
    RecipeName,
    ReportFolder,
    RunName,
    Small,
    Title,
    Workspace,
)
from sfplus.cli.report_folder import check_report_folder, read_report
from sfplus.errors import UsageError, one_line
from sfplus.io.console import Console, quantity
from sfplus.io.files import write_atomically
from sfplus.io.loggers import get_logger
from sfplus.io.memory import keep_freed_memory
from sfplus.io.tables import FAILURES, read_failures
from sfplus.pipeline.execute import run_steps
from sfplus.pipeline.hold_out import hold_out
from sfplus.pipeline.plan import plan, resolve_inputs, steps_until
from sfplus.recipes.load import find_recipe, load_recipe, small_settings
from sfplus.recipes.recipe import image_keys
from sfplus.recipes.steps import InputReference, Step, StepOutput, UserModel, UserPairs
from sfplus.training.history import EVENTS

_log = get_logger(__name__)

app = App()


@app.command()
def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    until: Annotated[str, typer.Option("--until", help="Stop after this stage: detect, align, train, ...")] = "",
    device: Device = "auto",
    workspace: Workspace = DATA,
    name: RunName = "",
    out: ReportFolder = None,
    title: Title = "",
    small: Small = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe, or the stale part of it, and print the result.

    Example: sfplus run demo --until train
    """
    run_until(until, recipe, overrides, device, workspace, name, out, title, small, as_json)


def run_until(
    until: str,
    recipe: str,
    overrides: Sequence[str] | None,
    device: str,
    workspace: Path,
    name: str,
    out: Path | None,
    title: str,
    small: bool,
    as_json: bool,
) -> None:
    """Run a recipe up to a stage: the work of the commands `run`, `train` and `finetune`, whose options these are."""
    settings, small_name = apply_small(recipe, overrides, small)
    settings += title_override(title)
    run_recipe(recipe, settings, until, device, workspace, name or small_name, out=out, as_json=as_json)


def title_override(title: str) -> list[str]:
    """Return the override that sets the heading of the report; none for an empty title."""
    return [f"report.title={json.dumps(title)}"] if title else []


def apply_small(recipe: str, overrides: Sequence[str] | None, small: bool) -> tuple[list[str], str]:
    """Return the overrides, preceded by those of the small size if asked for, and the name of such a run."""
    if not small:
        return list(overrides or ()), ""
    path = find_recipe(recipe)
    return [*small_settings(path), *(overrides or ())], f"{path.stem}-small"


def open_recipe(
    name: str, overrides: Sequence[str], device: str, workspace: Path, run_name: str = "", command: str = ""
) -> tuple[list[Step], RunContext, Path]:
    """Return the steps of a recipe, the context of the run, and the file that records what was run."""
    path = find_recipe(name)
    folder = run_folder(workspace, run_name or path.stem)
    context = RunContext(workspace, Console(quiet=not is_first()), device)
    settings = hold_out(load_recipe(path, overrides), workspace, context)
    steps = plan(settings, recipe_text(path, overrides), command or run_command(name, overrides))
    return steps, context, folder / "run.json"


def run_command(name: str, overrides: Sequence[str]) -> str:
    """Return the command that runs a recipe with these overrides."""
    return shlex.join(["sfplus", "run", name, *overrides])


def this_command() -> str:
    """Return the command line of this process, for a report to repeat."""
    return shlex.join(["sfplus", *sys.argv[1:]])


def recipe_text(path: Path, overrides: Sequence[str]) -> str:
    """Return the YAML of a recipe with the overrides as comments, for its report.

    The comment at the top and the key `report` are left out: they may be about other photos than those of this run.
    """
    text = re.sub(r"\A(#.*\n)+\n*", "", path.read_text("utf-8"))
    text = re.sub(r"^report:.*\n([ \t].*\n|\n)*", "", text, flags=re.MULTILINE)
    return text.rstrip() + "\n" + "".join(f"# changed on the command line: {o}\n" for o in overrides)


def run_folder(workspace: Path, name: str) -> Path:
    """Return the folder of a run's results, for people.

    Raises:
        UsageError: If the name cannot be the name of a folder.
    """
    if name != Path(name).name or name.startswith("."):
        remedy = "use letters, digits and dashes"
        raise UsageError("is not a valid name of a folder", where=f"--name {name}", remedy=remedy)
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
    as_json: bool = False,
) -> dict[str, Artefact]:
    """Run a recipe up to a stage, or to its end, and print its results and their folder.

    Args:
        name: The name of the recipe, or its file.
        overrides: `key=value`.
        until: The last stage to run; empty for all stages.
        device: The device to run on.
        workspace: The folder of cache and runs.
        run_name: The folder in `runs/`, if not the name of the recipe.
        against: A second model to verify on the same crops and pairs, shown in the same report.
        out: The folder of the report, if not that in `runs/`.
        command: The command that the report shows, if not `sfplus run`.
        as_json: Whether to print the result as JSON.

    Returns:
        The artefacts by the names of their steps.
    """
    steps, context, record = open_recipe(name, overrides, device, workspace, run_name, command)
    folder = out or record.parent
    if against:
        steps = _add_second_model(steps, against)
    if until:
        steps = steps_until(steps, until)
    check_report_folder(folder, _pair_list(steps, workspace))
    keep_freed_memory()
    artefacts = run_steps(steps, context, record)
    if not is_first():
        return artefacts
    _log_failures(artefacts)
    _log_curves(artefacts, shlex.join(["sfplus", "board", name, *overrides]))
    names = _model_names(steps, artefacts, context)
    models = [_verified(names[key], artefacts[f"verify/{key}"]) for key in names if f"verify/{key}" in artefacts]
    identifications = {key: artefacts[f"identify/{key}"] for key in names if f"identify/{key}" in artefacts}
    identified = [_identified(names[key], artefact) for key, artefact in identifications.items()]
    folders = {step: artefact.folder for step, artefact in artefacts.items()}
    result = RunResult(models, artefacts=folders, identified=identified)
    last = steps[-1].name
    if "report" in artefacts:
        page = _publish_report(artefacts["report"], folder)
        result = replace(result, verdicts=list(read_report(folder).verdicts), report=page)
        lines = lines_of(result)
    elif last in image_keys():
        from sfplus.cli.sweep_results import publish_figures  # matplotlib is slow to import

        path = find_recipe(name)
        about = recipe_text(path, overrides), command or run_command(name, overrides)
        report = load_recipe(path, overrides).report
        page, metrics, line = publish_figures(last, artefacts[last], folder, path.stem, report, *about)
        result, lines = replace(result, metrics=metrics, report=page), [line, f"result: {page}"]
    else:
        lines = [*result.lines, f"{last}: {artefacts[last].folder}"]
    print_result(result, lines, as_json)
    return artefacts


def lines_of(result: RunResult) -> list[str]:
    """Return the result of a verification in lines: models, conclusions, the report."""
    return [*result.lines, *map(one_line, result.verdicts), f"report: {result.report}"]


def _pair_list(steps: Sequence[Step], workspace: Path) -> Path | None:
    """Return the pair list of the user's that steps report on; None if it was drawn for this run."""
    reported = {name for step in steps if step.name == "report" for name in step.inputs}
    lists = (step.inputs["pairs"] for step in steps if step.name in reported and "pairs" in step.inputs)
    paths = (pairs.path for pairs in lists if isinstance(pairs, UserPairs))
    return next((path for path in paths if workspace / "cache" not in path.parents), None)


def _model_names(steps: Sequence[Step], artefacts: Mapping[str, Artefact], context: RunContext) -> dict[str, str]:
    """Return the name that the report gives each model that was verified or identified with, by its key in steps."""
    models = {}
    by_name = {step.name: step for step in steps}
    for step in steps:
        kind, _, key = step.name.partition("/")
        if kind in ("verify", "identify") and step.name in artefacts and key not in models:
            features = next(ref for name, ref in step.inputs.items() if name.startswith("features"))
            assert isinstance(features, StepOutput)
            models[key] = ModelFacts.read(resolve_inputs(by_name[features.step], artefacts, context)["model"])
    return name_models(models)


def _verified(model: str, artefact: Artefact) -> VerifiedModel:
    counts, protocol = artefact.manifest["counts"], artefact.manifest["settings"]["protocol"]
    return VerifiedModel(model, counts["accuracy"], counts["standard_error"], protocol, counts["pairs"])


def _identified(model: str, artefact: Artefact) -> IdentifiedModel:
    rates = read_identification(artefact.folder)
    size = rates.rows[-1].distractors
    return IdentifiedModel(model, rates.figures(), rates.people, rates.probes, rates.strangers, size)


def _publish_report(artefact: Artefact, folder: Path) -> Path:
    """Copy the report to the folder where people look for it, and return its HTML file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (REPORT_HTML, REPORT_JSON, REPORT_MARKDOWN):
        write_atomically(folder / name, (artefact.folder / name).read_bytes())
    return folder / REPORT_HTML


def _add_second_model(steps: Sequence[Step], model: str) -> list[Step]:
    """Verify a second model on the same photos and pairs, before the first one; its crops follow its own template."""
    *first, embed, verify, report = steps
    reference, second = embed.inputs["model"], UserModel(model, key="--against")
    if isinstance(reference, UserModel) and not reference.input and reference.path.resolve() == second.path.resolve():
        raise UsageError("is the same model", where=f"--against {model}", remedy="give a different one")
    crops, added = embed.inputs["crops"], []
    if isinstance(crops, StepOutput):
        align = next(step for step in first if step.name == crops.step)
        template = find_template(second.template)
        if template.name != getattr(align.settings, "template", ""):
            settings = align.settings.model_copy(update={"template": template.name, "fit": template.fit})
            added.append(replace(align, name="align/against", settings=settings))
            crops = StepOutput("align/against")
    added += [
        replace(embed, name="embed/against", inputs={"model": second, "crops": crops}),
        replace(verify, name="verify/against", inputs={**verify.inputs, "features": StepOutput("embed/against")}),
    ]
    inputs: dict[str, InputReference] = {"verify/against": StepOutput("verify/against"), "model/against": second}
    return [*first, *added, embed, verify, replace(report, inputs={**inputs, **report.inputs})]


def _log_curves(artefacts: Mapping[str, Artefact], command: str) -> None:
    """Say where TensorBoard's files of the training are."""
    folders = [artefact.folder / EVENTS for artefact in artefacts.values() if (artefact.folder / EVENTS).is_dir()]
    if folders:
        _log.info("training curves: %s; see them with: %s", ", ".join(map(str, folders)), command)


def _log_failures(artefacts: Mapping[str, Artefact]) -> None:
    """Warn about photos that were not used: how many, and the file that lists them."""
    for step, artefact in artefacts.items():
        missed, failed = read_failures(artefact.folder) if step.startswith(("align/", "embed/")) else ([], [])
        if missed or failed:
            counts = f"{quantity(len(missed), 'photo')} without a face, {len(failed)} failed"
            _log.warning("%s: %s: %s", step, counts, artefact.folder / FAILURES)
