from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from samples import JPEG, PNG, full, pairs, result

from sfplus.errors import PairsError, UsageError
from sfplus.reports.html import Report, render, worst_crops
from sfplus.verification.result import Result

EVIL = "<script>alert('x')</script>\" onerror=\"y/\u202e\n&\udc80{{ 7 * 7 }}"
VOID = {"meta", "img", "br", "wbr", "circle", "ellipse", "path", "use"}


class Page(HTMLParser):
    """Parse the elements and text of the page; fail on a tag that is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def rendered(report: Report, folder: Path) -> tuple[str, Page]:
    render(report, folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Render the report with all parts."""
    folder = tmp_path_factory.mktemp("full")
    render(full(), folder)
    return folder


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_page_contains_all_parts(text: str, page: Page) -> None:
    words = " ".join("".join(page.text).replace("\u202f", " ").split())
    mean, error = 100 * result(1).mean, 100 * result(1).standard_error
    for expected in (
        "LFW, aligned", "These are drawn faces", f"{mean:.2f} % ± {error:.2f}", "sphereface protocol", "99.30 %",
        "published: its README", "not measurable", "False accepts: different people taken for the same person",
        "False rejects: the same person taken for different people",
        "0.610 above 0.300, fold 5", "57 of 7,701", "and 17 more", "And 2 more", "They are cropped at the centre",
        "is cut short", "get it again", "Detected: Ann/Ann_0001", "1 h 02 min", "7,701 photos", "0123456789ab",
        "# a recipe", "torch 2.14", "NVIDIA H100", "sfplus run demo", "23 November 2025", "ab" * 32, "95 % interval",
        "Differences on the same pairs", "By protocol", "Hardest people", "Classifier on the hypersphere", "Person_",
    ):  # fmt: skip
        assert expected in words, expected
    assert text.startswith("<!DOCTYPE html>")
    figures = {attributes["id"] for tag, attributes in page.elements if tag == "figure" and "id" in attributes}
    assert figures == {f"figure-{k}" for k in ("folds", "roc", "det", "histogram-0", "histogram-1", "angles")} | {
        f"figure-history-{k}" for k in ("loss", "accuracy", "energy")
    }
    assert sum(tag == "svg" for tag, _ in page.elements) == 9 + 1


def test_images_are_embedded_in_the_page(page: Page) -> None:
    sources = [attributes["src"] or "" for tag, attributes in page.elements if tag == "img"]
    jpeg, png = (base64.b64encode(data).decode() for data in (JPEG, PNG))
    assert sources.count(f"data:image/jpeg;base64,{jpeg}") == 3
    assert sources.count(f"data:image/png;base64,{png}") == 2


def test_page_loads_nothing(text: str, page: Page) -> None:
    assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        assert not [key for key in attributes if key.startswith("on")]
        for key in ("src", "href", "xlink:href", "srcset", "action"):
            assert (attributes.get(key) or "#").startswith(("#", "data:image/"))
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style


def test_hostile_text_stays_text(page: Page, tmp_path: Path) -> None:
    plain = full()
    report = replace(
        full(EVIL),
        title=EVIL, notice=EVIL, recipe=EVIL, command=EVIL, device=EVIL, created=EVIL, versions={EVIL: EVIL},
        results={EVIL: plain.results["SphereFace"], "b": plain.results["SphereFace+"]},
        pairs={EVIL: plain.pairs["SphereFace"]}, protocols={EVIL: plain.protocols["SphereFace"]},
        spreads={EVIL: plain.spreads["SphereFace"]}, hashes={EVIL: EVIL},
        published=[{"name": EVIL, "accuracy": 0.5, "source": EVIL}],
        histories={EVIL: plain.histories["SphereFace"]},
        stages=[{"stage": EVIL, "state": EVIL, "device": EVIL, "counts": {EVIL: 1}, "fingerprint": EVIL}],
    )  # fmt: skip
    text, hostile = rendered(report, tmp_path)
    assert {tag for tag, _ in hostile.elements} <= {tag for tag, _ in page.elements}
    assert "onerror" not in {key for _, attributes in hostile.elements for key in attributes}
    assert "\u202e" not in text
    assert EVIL.replace("\u202e\n", "\\u202e\\n").replace("\udc80", "\\udc80") in hostile.text, "the text was cut"
    data = json.loads((tmp_path / "report.json").read_bytes())
    assert data["title"] == EVIL and data["failures"][0]["photo"] == EVIL
    lines = (tmp_path / "report.md").read_text("utf-8").splitlines()
    assert "# \\<script\\>alert('x')\\</script\\>\" onerror=\"y/\\\\u202e\\\\n\\&\\\\udc80{{ 7 \\* 7 }}" in lines


@pytest.mark.slow
def test_same_report_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    render(full(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_json_contains_the_same_content(folder: Path) -> None:
    report = full()
    data = json.loads((folder / "report.json").read_bytes())
    assert list(data)[:6] == ["title", "dataset", "models", "notice", "results", "protocols"]
    assert Result.from_dict(data["results"]["SphereFace+"]).to_dict() == report.results["SphereFace+"].to_dict()
    assert data["results"]["SphereFace+"]["tar_at_far"]["0.0001"] is None
    assert 0.5 < data["results"]["SphereFace+"]["auc"] < 1
    assert len(data["undetected"]["names"]) == 57 and len(data["failures"]) == 102
    assert data["worst"]["false_accepts"] == [
        {"left_name": "Ann/Ann_0001", "right_name": "Bo Li/Bo Li_0002", "score": 0.61, "fold": 4, "threshold": 0.3}
    ]
    assert data["histories"]["SphereFace+"][-1] == {"step": 6, "loss": None}
    assert data["gallery"] == [["Detected: Ann/Ann_0001"]]
    assert tuple(data["results"]["SphereFace"]["left"]) == pairs().left and "pairs" not in data
    intervals = data["results"]["SphereFace"]["intervals"]
    assert intervals["accuracy"]["low"] < result(0).mean < intervals["accuracy"]["high"]
    assert intervals["auc"]["low"] < data["results"]["SphereFace"]["auc"] < intervals["auc"]["high"]
    assert intervals["0.0001"] is None
    assert data["protocols"]["SphereFace"]["sphereface"]["mean"] == result(0).mean
    assert data["spreads"]["SphereFace"]["count"] == 50 and "nearest" not in data["spreads"]["SphereFace"]
    assert len(data["comparisons"]) == 1


def test_markdown_has_the_same_tables(folder: Path) -> None:
    lines = (folder / "report.md").read_text("utf-8").splitlines()
    tables = [i for i, line in enumerate(lines) if line.startswith("| ---")]
    assert len(tables) == 7
    for i in tables:
        width = lines[i].count("|")
        row = i - 1
        while row < len(lines) and lines[row].startswith("|"):
            assert lines[row].replace("\\|", "").count("|") == width, lines[row]
            row += 1
        assert row > i + 1 and (row == len(lines) or not lines[row])
    assert "sfplus run demo" in lines[lines.index("```") :] and "# LFW, aligned" in lines


@pytest.mark.slow
def test_empty_parts_are_left_out(tmp_path: Path) -> None:
    _, page = rendered(Report(title="Nothing yet"), tmp_path)
    assert not {"section", "table", "figure", "img", "pre"} & {tag for tag, _ in page.elements}
    text, page = rendered(Report(title="One", results={"SphereFace+": result(1)}), tmp_path)
    assert [tag for tag, _ in page.elements].count("section") == 3
    assert "Differences on the same pairs" not in text
    photos_only = replace(full(), results={}, pairs={}, protocols={}, histories={}, spreads={})
    for part in ("worst", "undetected", "failures", "gallery", "stages", "recipe", "hashes", "published"):
        empty = None if part == "undetected" else type(getattr(photos_only, part))()
        rendered(replace(photos_only, **{part: empty}), tmp_path)


def test_won_and_lost_pairs_are_counted(text: str) -> None:
    first, last = result(0).correct, result(1).correct
    won, lost = re.findall(r">(\d+) : (\d+)</td>", text)[0]
    assert (int(won), int(lost)) == (int((last & ~first).sum()), int((first & ~last).sum()))


def test_published_accuracy_must_be_a_fraction() -> None:
    with pytest.raises(UsageError, match="not a fraction"):
        Report(title="", published=[{"name": "SphereFace", "accuracy": 99.3, "source": ""}])


def test_worst_pairs_use_the_threshold_of_their_fold() -> None:
    scores = np.array([0.9, 0.5, 0.4, 0.9, 0.1, 0.45, 0.9, 0.39])
    same = np.array([True, False, False, True, True, True, True, False])
    fold = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    result_of_two_folds = Result("sphereface", np.zeros(2), np.array([0.3, 0.5]), scores, same, fold)
    names = [str(i) for i in range(8)]
    worst = worst_crops(result_of_two_folds, names, names, str.encode)
    assert [crop.left_name for crop in worst["false_accepts"]] == ["1", "2"]
    assert [(crop.right_jpeg, crop.score, crop.threshold) for crop in worst["false_rejects"]] == [
        (b"4", 0.1, 0.5), (b"5", 0.45, 0.5)
    ]  # fmt: skip


def test_pairs_must_be_those_of_the_result() -> None:
    swapped = replace(pairs(), same=~pairs().same)
    with pytest.raises(PairsError, match="different pairs"):
        Report(title="", results={"a": result(0)}, pairs={"a": swapped})


def test_a_report_cannot_be_written_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file: is not a folder"):
        render(Report(title="x"), tmp_path / "file" / "report")
