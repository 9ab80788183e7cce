"""The report: a self-contained page `report.html`, with the same content as `report.json` and `report.md`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sfplus.artifacts.layout import REPORT_HTML, REPORT_JSON, REPORT_MARKDOWN
from sfplus.artifacts.model_facts import ModelFacts, start_of
from sfplus.datasets.pairs import Pairs
from sfplus.errors import UsageError
from sfplus.io.files import check_folder, write_atomically
from sfplus.reports import metrics, plots
from sfplus.reports.figures import is_finite
from sfplus.reports.jinja_filters import markdown_templates, page_templates
from sfplus.reports.metrics import to_json_value
from sfplus.verification.curves import FARS, tested_pairs
from sfplus.verification.identification_rates import FPIRS, IdentificationSummary
from sfplus.verification.result import Result
from sfplus.weights.teachers import describe_teachers

if TYPE_CHECKING:
    from sfplus.hypersphere import Uniformity

HTML, JSON, MARKDOWN = REPORT_HTML, REPORT_JSON, REPORT_MARKDOWN
_NAMES, _ROWS = 40, 100  # undetected photos and failures listed on the page; report.json lists them all
_HISTOGRAMS = 4  # plots, of the last models
_WORST = 12  # false accepts, and as many false rejects


@dataclass(frozen=True)
class PairCrop:
    """A wrongly decided pair with its two crops as JPEG or PNG bytes, which may be empty.

    Attributes:
        left_name: the first photo.
        right_name: the second photo.
        left_jpeg: its crop.
        right_jpeg: its crop.
        score: similarity of the pair.
        fold: 0-based fold of the pair.
        threshold: threshold of that fold.
    """

    left_name: str
    right_name: str
    left_jpeg: bytes
    right_jpeg: bytes
    score: float
    fold: int
    threshold: float


@dataclass(frozen=True)
class Undetected:
    """Photos in which no face was detected.

    Attributes:
        policy: how they were handled, as a sentence.
        names: the photos.
        total: the number of photos searched; 0 if unknown.
    """

    policy: str
    names: Sequence[str] = ()
    total: int = 0


@dataclass(frozen=True)
class Report:
    """The content of a report; empty parts are left out of the page.

    Attributes:
        title: heading of the page.
        dataset: the data set that the pairs belong to.
        models: facts of the models by name; they decide which comparison shows the effect of a regulariser.
        notice: a notice at the top of the page, e.g. that the faces are drawn.
        results: result by name of the model; the last one is the headline.
        pairs: the pairs of each result, by the same names; needed for intervals over people and comparisons.
        protocols: `mean` and `standard_error` on the same features, by model, then by protocol.
        identification: identification rates of each model by the number of distractors.
        published: rows with `name`, `accuracy` (a fraction, as in Result) and `source`.
        worst: "false_accepts" and "false_rejects" of the headline model, worst first.
        undetected: photos without a detected face, and the policy for them.
        failures: rows with `photo`, `reason` and `remedy`.
        gallery: captions with JPEG or PNG bytes.
        histories: rows of the training history by name of the run (see `plots.history_plot`).
        spreads: uniformity of the classifier weights of each model.
        stages: rows with `stage`, `state`, `seconds`, `device`, `counts` (text or numbers by name), `fingerprint`.
        recipe: the settings, as YAML text.
        hashes: SHA-256 of each input, by name.
        versions: version by name of the package.
        device: name of the device.
        command: the command that reproduces this report.
        created: date and time, as text.

    Raises:
        UsageError: If a published accuracy is not a fraction.
        PairsError: If the pairs of a model are not those of its result.
    """

    title: str
    dataset: str = ""
    models: Mapping[str, ModelFacts] = field(default_factory=dict)
    notice: str = ""
    results: Mapping[str, Result] = field(default_factory=dict)
    pairs: Mapping[str, Pairs] = field(default_factory=dict)
    protocols: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    identification: Mapping[str, IdentificationSummary] = field(default_factory=dict)
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
    """Write `report.html`, `report.json` and `report.md` to a folder, each atomically.

    The page needs neither network nor JavaScript. The same report gives the same bytes.

    Args:
        report: the content.
        folder: the folder, which is created if missing.

    Raises:
        UsageError: If the folder is a file or inside one.
    """
    check_folder(folder)
    figures = metrics.compute_metrics(report.results, report.pairs, report.models)
    context = figures | {
        "report": report,
        "teachers": {
            name: describe_teachers(facts.teachers) for name, facts in report.models.items() if facts.teachers
        },
        "classifiers": metrics.classifier_table(report.spreads),
        "descriptions": metrics.protocol_descriptions(report.protocols),
        "continued": bool(_first_steps(report)),
        "fars": FARS,
        "fpirs": FPIRS,
        "max_names": _NAMES,
        "max_rows": _ROWS,
    }
    page = page_templates().get_template("report.html.jinja").render(context | {"svg": _plots(report)})
    text = markdown_templates().get_template("report.md.jinja").render(context)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / JSON, _json(report, figures))
    write_atomically(folder / MARKDOWN, text.encode("utf-8", "backslashreplace"))
    write_atomically(folder / HTML, page.encode("utf-8", "backslashreplace"))


def worst_crops(
    result: Result, left: Sequence[str], right: Sequence[str], crop: Callable[[str], bytes] = lambda name: b""
) -> dict[str, list[PairCrop]]:
    """Return the worst false accepts and false rejects of a result, for a report.

    Args:
        result: the result of the pairs.
        left: names of the P first photos.
        right: names of the P second photos.
        crop: a function from the name of a photo to the bytes of its crop; by default only names are listed.

    Returns:
        `false_accepts` and `false_rejects`, for `Report.worst`.
    """

    def pair_crop(i: int) -> PairCrop:
        fold = int(result.fold[i])
        first, second = left[i], right[i]
        score, threshold = float(result.scores[i]), float(result.threshold[fold])
        return PairCrop(first, second, crop(first), crop(second), score, fold, threshold)

    accepts, rejects = metrics.worst_pairs(result, _WORST)
    return {"false_accepts": [pair_crop(i) for i in accepts], "false_rejects": [pair_crop(i) for i in rejects]}


def _json(report: Report, figures: Mapping[str, Any]) -> bytes:
    """Return the report as JSON with one key per line; the rates and pairs of a model are part of its result."""
    data = to_json_value(replace(report, spreads={}, models={}, identification={}))
    data["identification"] = {name: to_json_value(rates.to_json()) for name, rates in report.identification.items()}
    data["models"] = {name: to_json_value(facts.to_json()) for name, facts in report.models.items()}
    data["spreads"] = {name: metrics.classifier_summary(uniformity) for name, uniformity in report.spreads.items()}
    pairs = data.pop("pairs")
    for name, result in data["results"].items():
        result |= to_json_value(figures["rates"][name])
        if name in pairs:
            people = {"intervals": figures["intervals"].get(name, {}), "hardest_people": figures["people"][name]}
            result |= to_json_value(people) | {key: pairs[name][key] for key in ("left", "right")}
    data["comparisons"] = [
        to_json_value(row) | {"real": row.significant, "verdict": row.verdict, "effect": effect}
        for row, effect in zip(figures["comparisons"], figures["effects"], strict=True)
    ]
    data["verdicts"] = figures["verdicts"]
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in data.items())
    return f"{{\n{lines}\n}}\n".encode()


def _first_steps(report: Report) -> dict[str, int]:
    """Return the step at which each training starts that continues another one: the last step of that one."""
    steps = {
        name: max((row["step"] for row in rows if is_finite(row.get("step"))), default=0)
        for name, rows in report.histories.items()
    }
    starts = {name: start_of(name, report.models) for name in steps}
    return {name: steps[start] for name, start in starts.items() if start in steps and start != name}


def _plots(report: Report) -> dict[str, Any]:
    """Return the plots as SVG that the template does not escape: by name, or by name and then model or metric."""
    order = list(dict.fromkeys([*report.results, *report.histories, *report.spreads]))  # one colour for each model
    starts = _first_steps(report)
    svg: dict[str, Any] = {"history": plots.history_plot(report.histories, order=order, starts=starts), "histogram": {}}
    if report.results:
        svg |= {"folds": plots.fold_plot(report.results), "roc": plots.roc_plot(report.results)}
        svg["det"] = plots.det_plot(report.results)
        for k, (name, result) in list(enumerate(report.results.items()))[-_HISTOGRAMS:]:
            svg["histogram"][name] = plots.histogram_plot(result, f"histogram-{k}", k)
    if report.spreads:
        svg["angles"] = plots.angle_plot(report.spreads, order)
    return {
        name: {key: Markup(text) for key, text in plot.items()} if isinstance(plot, dict) else Markup(plot)
        for name, plot in svg.items()
    }
