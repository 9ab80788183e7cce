"""The report: one self-contained page (`report.html`) and the same facts as data (`report.json`)."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from sfplus.datasets.pairs import Pairs
from sfplus.errors import PairsError, UsageError, one_line
from sfplus.images import write_atomically
from sfplus.reports import plots
from sfplus.verification.curves import auc, eer, tar_at_far
from sfplus.verification.protocols import Result

FARS = (0.1, 0.01, 0.001, 0.0001)
_NAMES, _ROWS = 40, 100  # undetected photos and failures that the page lists; report.json lists them all


@dataclass(frozen=True)
class PairCrop:
    """A pair that was decided wrongly, with its two crops as JPEG (or PNG) bytes."""

    left_name: str
    right_name: str
    left_jpeg: bytes
    right_jpeg: bytes
    score: float
    fold: int
    threshold: float


@dataclass(frozen=True)
class Undetected:
    """Photos in which no face was found.

    Attributes:
        policy: what was done with them, as a sentence.
        names: the photos.
        total: how many photos were searched; 0 when that is not known.
    """

    policy: str
    names: Sequence[str] = ()
    total: int = 0


@dataclass(frozen=True)
class Report:
    """What a report tells; whatever is empty is left out of the page.

    Attributes:
        title: heading of the page.
        notice: what a reader must know first, e.g. that the faces are drawn.
        results: result by name of the model; the last one is the headline.
        published: rows with `name`, `accuracy` (a fraction, as in Result) and `source`.
        worst: "false_accepts" and "false_rejects" of the headline model, worst first.
        undetected: photos without a face, and the policy for them.
        failures: rows with `photo`, `reason` and `remedy`.
        gallery: captions with JPEG (or PNG) bytes.
        histories: rows of training by name of the run (see `plots.history_plot`).
        stages: rows with `stage`, `state`, `seconds`, `device`, `counts` (text or numbers by word), `fingerprint`.
        recipe: the settings, as YAML text.
        versions: version by name of the package.
        device: what it ran on.
        command: the command that makes this report again.
        created: date and time, as text.
    """

    title: str
    notice: str = ""
    results: Mapping[str, Result] = field(default_factory=dict)
    published: Sequence[Mapping[str, Any]] = ()
    worst: Mapping[str, Sequence[PairCrop]] = field(default_factory=dict)
    undetected: Undetected | None = None
    failures: Sequence[Mapping[str, Any]] = ()
    gallery: Sequence[tuple[str, bytes]] = ()
    histories: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    stages: Sequence[Mapping[str, Any]] = ()
    recipe: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    command: str = ""
    created: str = ""

    def __post_init__(self) -> None:
        for row in self.published:
            if not 0 <= row["accuracy"] <= 1:
                raise UsageError(f"{row['accuracy']} is not a fraction", where=f"published accuracy of {row['name']}")


def worst_pairs(result: Result, pairs: Pairs, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the up to `n` false accepts and `n` false rejects furthest beyond the threshold of their own fold.

    Raises:
        PairsError: the result is of other pairs.
    """
    if not (np.array_equal(result.same, pairs.same) and np.array_equal(result.fold, pairs.fold)):
        raise PairsError("the result is of other pairs", remedy="verify these pairs again")
    margin = result.scores - result.threshold[result.fold]
    order = np.argsort(-np.abs(margin), kind="stable")
    wrong = order[~result.correct[order]]
    return wrong[~result.same[wrong]][:n], wrong[result.same[wrong]][:n]


def render(report: Report, folder: Path) -> None:
    """Write `report.html` and `report.json` into a folder, each moved into place as a whole.

    The page needs neither network nor JavaScript. The same report gives the same bytes.
    """
    rates = {name: _rates(result) for name, result in report.results.items()}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: one_line(value) if type(value) is str else value,
    )
    filters = (_percent, _points, _seconds, _counts, _name, _short, _block, _uri)
    environment.filters |= {function.__name__[1:]: function for function in filters}
    page = environment.get_template("report.html.jinja").render(
        report=report, rates=rates, fars=FARS, names_shown=_NAMES, rows_shown=_ROWS, svg=_plots(report),
        change=_change(report.results),
    )  # fmt: skip
    data = _plain(report)
    for name, values in rates.items():
        data["results"][name] |= _plain(values)
    text = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in data.items())
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "report.json", f"{{\n{text}\n}}\n".encode())
    write_atomically(folder / "report.html", page.encode("utf-8", "backslashreplace"))


def _plots(report: Report) -> dict[str, Any]:
    histories = {k: Markup(v) for k, v in plots.history_plot(report.histories).items()}
    if not report.results:
        return {"history": histories}
    return {
        "history": histories,
        "folds": Markup(plots.fold_plot(report.results)),
        "roc": Markup(plots.roc_plot(report.results)),
        "histogram": Markup(plots.histogram_plot(list(report.results.values())[-1])),
    }


def _rates(result: Result) -> dict[str, Any]:
    tars = {f"{far:g}": tar_at_far(result.scores, result.same, far) for far in FARS}
    return {"auc": auc(result.scores, result.same), "eer": eer(result.scores, result.same), "tar_at_far": tars}


def _change(results: Mapping[str, Result]) -> dict[str, Any] | None:
    """How many pairs the last model decides rightly and the first wrongly, and the other way round."""
    (first, a), (last, b) = (list(results.items())[i] for i in (0, -1)) if results else (("", None), ("", None))
    if first == last or a is None or b is None or not np.array_equal(a.same, b.same):
        return None
    won, lost = int((b.correct & ~a.correct).sum()), int((a.correct & ~b.correct).sum())
    return {"first": first, "last": last, "won": won, "lost": lost}


def _plain(value: Any) -> Any:
    """A value as JSON data: pictures are left out, and what is not a finite number becomes null."""
    if isinstance(value, Result):
        return value.to_dict()
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value) if not f.name.endswith("_jpeg")}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value if not isinstance(item, bytes)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _percent(value: float | None) -> str:
    return "not measurable" if value is None else Markup(f"{100 * value:.2f}&#8239;%")


def _points(value: float) -> str:
    return f"{100 * value:.2f}"


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
    words = {key.replace("_", " "): number for key, number in value.items()}
    return ", ".join(f"{n:,} {word}" if isinstance(n, int) else f"{word} {_rounded(n)}" for word, n in words.items())


def _rounded(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _name(photo: str) -> Markup:
    """A photo's name that can break after its folder and its words."""
    return Markup("<wbr>").join(escape(part) for part in re.split("(?<=[/_])", one_line(photo)))


def _short(photo: str) -> Markup:
    """A photo's own name where it repeats its folder's: "Name/Name_0001" is Name_0001."""
    folder, _, own = photo.rpartition("/")
    return _name(own if folder and own.startswith(folder) else photo)


def _block(text: str) -> Markup:
    """Text that keeps its line breaks."""
    return Markup("\n").join(escape(one_line(line.expandtabs(4))) for line in text.strip("\n").split("\n"))


def _uri(image: bytes) -> Markup:
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return Markup(f"data:image/{kind};base64,{base64.b64encode(image).decode()}")
