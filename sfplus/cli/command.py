"""The commands of the command line: what all of them have in common, their help and the options for messages."""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
import typer.core

from sfplus.io.messages import choose_messages

_Function = TypeVar("_Function", bound=Callable[..., Any])
_PANEL = "Messages"

Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show what helps to understand a problem.", rich_help_panel=_PANEL)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show only results and errors.", rich_help_panel=_PANEL)]
LogFile = Annotated[
    Path | None,
    typer.Option("--log-file", metavar="FILE", help="Append all messages to this file.", rich_help_panel=_PANEL),
]
MESSAGE_OPTIONS = {"verbose": (Verbose, False), "quiet": (Quiet, False), "log_file": (LogFile, None)}
_LONGEST = 21  # characters of a list of choices
_METAVARS = {bool: "", int: "N", float: "NUMBER", Path: "PATH", str: "TEXT"}


class _Help:
    """Help without the names of Python's types, whose paragraphs are wrapped to the width of the terminal."""

    help: str | None

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.help = "\n\n".join(" ".join(text.split()) for text in re.split(r"\n\s*\n", self.help or ""))
        callback = settings.get("callback")
        self._types = typing.get_type_hints(callback) if callback else {}

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters with a description of their values for people."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if parameter.param_type_name == "argument":
                parameter.display_type_rich = lambda ctx: None  # of typer 0.29: the description says what it is
            elif parameter.metavar is None:
                parameter.metavar = _metavar(self._types.get(parameter.name, bool))
                if len(parameter.metavar) > _LONGEST:  # it would leave no room for the descriptions
                    parameter.help += f" One of {parameter.metavar.replace('|', ', ')}."
                    parameter.metavar = "CHOICE"
        return parameters

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the usage line in pieces: `RECIPE [KEY=VALUE]...`."""
        pieces = ["[OPTIONS]"]
        for parameter in self.get_params(ctx):
            if parameter.param_type_name == "argument":
                name = parameter.metavar or parameter.name.upper()
                text = name if parameter.required else f"[{name}]"
                pieces.append(text + "..." * (parameter.nargs != 1))
        return [*pieces, *["COMMAND [ARGS]..."] * isinstance(self, typer.core.TyperGroup)]


def _metavar(annotation: Any) -> str:
    """Return what stands for the value of an option: nothing for a flag, TEXT for text, `a|b` for a choice."""
    options = [option for option in typing.get_args(annotation) if option is not type(None)]
    if typing.get_origin(annotation) is Literal:
        return "|".join(options)
    if annotation in _METAVARS:
        return _METAVARS[annotation]
    return _metavar(options[0])  # of `list[str] | None`


class Command(_Help, typer.core.TyperCommand):
    """A command."""


class Group(_Help, typer.core.TyperGroup):
    """A command with commands of its own."""


class App(typer.Typer):
    """A command, or a group of them, whose functions get the options for messages too."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=Group, add_completion=False, rich_markup_mode="rich", **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[_Function], _Function]:
        """Make a function a command."""

        def decorate(function: _Function) -> _Function:
            super(App, self).command(name, cls=Command, **settings)(with_message_options(function))
            return function

        return decorate


def with_message_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that takes the options for messages too, and applies them first."""
    signature = inspect.signature(function, eval_str=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter(name, keyword, default=default, annotation=annotation)
        for name, (annotation, default) in MESSAGE_OPTIONS.items()
    ]

    @functools.wraps(function)
    def call(*, verbose: bool, quiet: bool, log_file: Path | None, **arguments: Any) -> Any:
        choose_messages(verbose, quiet, log_file)
        return function(**arguments)

    parameters = [*signature.parameters.values(), *added]
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call
