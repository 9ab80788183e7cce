"""The report: one self-contained page (`report.html`), the same facts as data (`report.json`) and as `report.md`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sfplus.datasets.pairs import Pairs
from sfplus.errors import UsageError
from sfplus.io.files import check_folder, write_atomically
from sfplus.reports import metrics as facts
from sfplus.reports import plots
from sfplus.reports.jinja_filters import markdown_templates, page_templates
from sfplus.verification.curves import FARS, tested_pairs
from sfplus.verification.result import Result

if TYPE_CHECKING:
    from sfplus.hypersphere import Uniformity

HTML, JSON, MARKDOWN = "report.html", "report.json", "report.md"
_NAMES, _ROWS = 40, 100  # undetected photos and failures that the page lists; report.json lists them all
_HISTOGRAMS = 4  # of the last models
_WORST = 12  # false accepts shown, and as many false rejects


@dataclass(frozen=True)
class PairCrop:
    """A pair that was decided wrongly, with its two crops as JPEG (or PNG) bytes, which may be empty."""

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
        pairs: the pairs of each result, by the same names; with them people are resampled and models compared.
        protocols: `mean` and `standard_error` by other protocols on the same features, by model, then by protocol.
        published: rows with `name`, `accuracy` (a fraction, as in Result) and `source`.
        worst: "false_accepts" and "false_rejects" of the headline model, worst first.
        undetected: photos without a face, and the policy for them.
        failures: rows with `photo`, `reason` and `remedy`.
        gallery: captions with JPEG (or PNG) bytes.
        histories: rows of training by name of the run (see `plots.history_plot`).
        spreads: how the classifier of each model is spread.
        stages: rows with `stage`, `state`, `seconds`, `device`, `counts` (text or numbers by word), `fingerprint`.
        recipe: the settings, as YAML text.
        hashes: SHA-256 of what went in, by name.
        versions: version by name of the package.
        device: what it ran on.
        command: the command that makes this report again.
        created: date and time, as text.
    """

    title: str
    notice: str = ""
    results: Mapping[str, Result] = field(default_factory=dict)
    pairs: Mapping[str, Pairs] = field(default_factory=dict)
    protocols: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    published: Sequence[Mapping[str, Any]] = ()
    worst: Mapping[str, Sequence[PairCrop]] = field(default_factory=dict)
    undetected: Undetected | None = None
    failures: Sequence[Mapping[str, Any]] = ()
    gallery: Sequence[tuple[str, bytes]] = ()
    histories: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    spreads: Mapping[str, Uniformity] = field(default_factory=dict)
    stages: Sequence[Mapping[str, Any]] = ()
    recipe: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    command: str = ""
    created: str = ""

    def __post_init__(self) -> None:
        for row in self.published:
            if not 0 <= row["accuracy"] <= 1:
                raise UsageError(f"{row['accuracy']} is not a fraction", where=f"published accuracy of {row['name']}")
        for name, pairs in self.pairs.items():
            tested_pairs(self.results[name], pairs)


def render(report: Report, folder: Path) -> None:
    """Write `report.html`, `report.json` and `report.md` into a folder, each moved into place as a whole.

    The page needs neither network nor JavaScript. The same report gives the same bytes.

    Raises:
        UsageError: the folder is a file, or lies below one.
    """
    check_folder(folder)
    numbers = facts.numbers(report.results, report.pairs)
    told = numbers | {
        "spread_rows": facts.spread_rows(report.spreads),
        "descriptions": facts.descriptions(report.protocols),
    }
    told |= {"report": report, "fars": FARS, "names_shown": _NAMES, "rows_shown": _ROWS}
    page = page_templates().get_template("report.html.jinja").render(told | {"svg": _plots(report)})
    text = markdown_templates().get_template("report.md.jinja").render(told)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / JSON, _json(report, numbers))
    write_atomically(folder / MARKDOWN, text.encode("utf-8", "backslashreplace"))
    write_atomically(folder / HTML, page.encode("utf-8", "backslashreplace"))


def worst_crops(
    result: Result, left: Sequence[str], right: Sequence[str], crop: Callable[[str], bytes] = lambda name: b""
) -> dict[str, list[PairCrop]]:
    """The worst pairs of a result, for a report.

    Args:
        result: of the pairs.
        left: (P,) the photos of the pairs.
        right: (P,) the other ones.
        crop: the picture of a photo; without it, pairs are shown by their names.
    """

    def pair(i: int) -> PairCrop:
        fold = int(result.fold[i])
        one, two = left[i], right[i]
        return PairCrop(one, two, crop(one), crop(two), float(result.scores[i]), fold, float(result.threshold[fold]))

    accepts, rejects = facts.worst_pairs(result, _WORST)
    return {"false_accepts": [pair(i) for i in accepts], "false_rejects": [pair(i) for i in rejects]}


def _json(report: Report, numbers: Mapping[str, Any]) -> bytes:
    """A key a line. What belongs to one model stands with its result, the pairs as `left` and `right` too."""
    data = facts.plain(replace(report, spreads={}))
    data["spreads"] = {name: facts.spread_summary(spread) for name, spread in report.spreads.items()}
    pairs = data.pop("pairs")
    for name, result in data["results"].items():
        result |= facts.plain(numbers["rates"][name])
        if name in pairs:
            result |= facts.plain(
                {"intervals": numbers["intervals"].get(name, {}), "hardest_people": numbers["people"][name]}
            )
            result |= {key: pairs[name][key] for key in ("left", "right")}
    data["comparisons"] = [
        facts.plain(row) | {"real": row.real, "verdict": row.verdict} for row in numbers["comparisons"]
    ]
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in data.items())
    return f"{{\n{lines}\n}}\n".encode()


def _plots(report: Report) -> dict[str, Any]:
    """The plots, by name or by name and model, as text that the page takes as it is."""
    drawn: dict[str, Any] = {"history": plots.history_plot(report.histories), "histogram": {}}
    if report.results:
        drawn |= {"folds": plots.fold_plot(report.results), "roc": plots.roc_plot(report.results)}
        drawn["det"] = plots.det_plot(report.results)
        last = list(report.results.items())[-_HISTOGRAMS:]
        for k, (name, result) in enumerate(reversed(last)):
            drawn["histogram"][name] = plots.histogram_plot(result, f"histogram-{k}")
    if report.spreads:
        drawn["angles"] = plots.angle_plot(report.spreads)
    return {
        name: {key: Markup(svg) for key, svg in plot.items()} if isinstance(plot, dict) else Markup(plot)
        for name, plot in drawn.items()
    }
