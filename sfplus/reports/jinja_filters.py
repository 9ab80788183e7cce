"""Jinja environments for the page and for Markdown, with filters that format numbers, names and images."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from sfplus.errors import one_line
from sfplus.io.markdown import escape_markdown


@cache
def page_templates(*folders: Path) -> jinja2.Environment:
    """Return the environment of HTML pages, in which all text is escaped and put on one line.

    Args:
        folders: of templates in addition to those of this package.
    """
    filters = {"percent": _page_percent, "name": _name, "short": _short, "block": _block, "uri": data_uri}
    return _environment(True, one_line, folders, **filters)


@cache
def markdown_templates() -> jinja2.Environment:
    """Return the environment of Markdown, in which text cannot create tables, links, markup or HTML."""
    return _environment(False, escape_markdown, percent=percent, block=_fenced)


def _environment(autoescape: bool, text: Any, folders: tuple[Path, ...] = (), **filters: Any) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, *folders]),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: text(value) if type(value) is str else value,
    )
    environment.filters |= filters | {"points": _points, "seconds": _seconds, "counts": _counts, "p_value": _p_value}
    return environment


def percent(value: float | None, digits: int = 2) -> str:
    """Format a fraction in per cent; None as "not measurable"."""
    return "not measurable" if value is None else f"{100 * value:.{digits}f} %"


def _page_percent(value: float | None, digits: int = 2) -> str:
    return Markup(percent(value, digits).replace(" %", "&#8239;%"))


def _points(value: float, sign: str = "") -> str:
    return f"{100 * value:{sign}.2f}".replace("-", "−")


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _counts(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value or "")
    named = {key.replace("_", " "): number for key, number in value.items()}
    return ", ".join(f"{n:,} {name}" if isinstance(n, int) else f"{name}: {_rounded(n)}" for name, n in named.items())


def _rounded(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _name(photo: str) -> Markup:
    """Allow line breaks in the name of a photo after slashes and underscores."""
    return Markup("<wbr>").join(escape(part) for part in re.split("(?<=[/_])", one_line(photo)))


def _short(photo: str) -> Markup:
    """Drop the folder of a photo if its file name repeats it: "Name/Name_0001" becomes "Name_0001"."""
    folder, _, file = photo.rpartition("/")
    return _name(file if folder and file.startswith(folder) else photo)


def _block(text: str) -> Markup:
    """Escape text and keep its line breaks."""
    return Markup("\n").join(escape(one_line(line.expandtabs(4))) for line in text.strip("\n").split("\n"))


def data_uri(image: bytes) -> Markup:
    """Return a JPEG or PNG image as a data URI."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return Markup(f"data:image/{kind};base64,{base64.b64encode(image).decode()}")


def _fenced(text: str) -> Markup:
    """Format text as a Markdown code block, between fences that are longer than any in the text."""
    lines = [one_line(line.expandtabs(4)) for line in text.strip("\n").split("\n")]
    fence = "`" * max(3, 1 + max((len(run) for line in lines for run in re.findall("`+", line)), default=0))
    return Markup("\n".join([fence, *lines, fence]))
