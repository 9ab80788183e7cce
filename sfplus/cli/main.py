"""The command `sfplus`: lists the commands and imports the one that is used."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from sfplus import __version__
from sfplus.cli.command import Group, with_message_options

# In the order of the help. Each is a module of this package, whose docstring opens with the line shown in the help.
COMMANDS = (
    "run", "train", "finetune", "sweep", "status", "board", "export", "verify", "identify", "report", "calibrate",
    "compare", "app", "detect", "align", "embed", "group", "find", "energy", "sample", "pairs", "convert", "unpack",
    "pack", "overlap", "lfw", "doctor", "recipes", "models",
)  # fmt: skip


class _LazyGroup(Group):
    """A group that imports the module of a command when the command is used, so that the help answers at once."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for command in COMMANDS:
            self.commands[command] = typer.core.TyperCommand(command, help=_first_line(command))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] in COMMANDS:
            return args[0], load_command(args[0]), args[1:]
        return super().resolve_command(ctx, args)


def load_command(name: str) -> Any:
    """Return a command, after importing its module."""
    return typer.main.get_command(importlib.import_module(f"sfplus.cli.{name}").app)


def _first_line(command: str) -> str:
    """Read the first line of the docstring of a command's module, without importing it."""
    with Path(__file__).with_name(f"{command}.py").open(encoding="utf-8") as file:
        return file.readline().strip().strip('"')


app = typer.Typer(
    cls=_LazyGroup, no_args_is_help=True, rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Face recognition on the hypersphere: detect, align, train, fine-tune, verify, report.

First try:  [bold]sfplus run demo[/bold]   (drawn faces, offline, about three minutes)""",
)  # fmt: skip


@app.callback(invoke_without_command=True)
@with_message_options
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(f"sfplus {__version__}")
        raise typer.Exit
