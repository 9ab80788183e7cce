from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from sfplus.datasets.pairs import Pairs
from sfplus.errors import PairsError, UsageError
from sfplus.reports.html import PairCrop, Report, Undetected, render, worst_pairs
from sfplus.verification.protocols import Result, sphereface

EVIL = "<script>alert('x')</script>\" onerror=\"y/\u202e\n&\udc80{{ 7 * 7 }}"
JPEG, PNG = b"\xff\xd8\xff\xe0 a photo", b"\x89PNG a crop"
VOID = {"meta", "img", "br", "wbr", "circle", "ellipse", "path", "use"}


class Page(HTMLParser):
    """The page's elements and text; fails on a tag that is not closed."""

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


def result(seed: int) -> Result:
    rng = np.random.default_rng(seed)
    same, fold = np.arange(200) % 2 == 0, np.arange(200) % 10
    left, right = rng.normal(size=(2, 200, 8))
    right[same] += left[same]
    return sphereface(left, right, same, fold)


def full(name: str = "Ann/Ann_0001") -> Report:
    crops = [PairCrop(name, "Bo Li/Bo Li_0002", JPEG, PNG, 0.61, 4, 0.3)]
    rows = [{"step": i, "loss": 9.0 - i, "accuracy": 0.1 * i, "energy": 0.5} for i in range(5)]
    return Report(
        title="LFW, aligned",
        notice="These are drawn faces",
        results={"SphereFace": result(0), "SphereFace+": result(1)},
        published=[{"name": "SphereFace, released", "accuracy": 0.993, "source": "its README"}],
        worst={"false_accepts": crops, "false_rejects": crops},
        undetected=Undetected("They are cropped at the centre", [f"{name}{i}" for i in range(57)], 7701),
        failures=[{"photo": name, "reason": "is cut short", "remedy": "get it again"}] * 102,
        gallery=[(f"Detected: {name}", JPEG)],
        histories={"SphereFace": rows, "SphereFace+": [*rows, {"step": 6, "loss": math.nan}]},
        stages=[
            {"stage": "detect", "state": "fresh", "seconds": 3725.0, "device": "cpu", "counts": {"photos": 7701},
             "fingerprint": "0123456789abcdef"},
            {"stage": "verify", "state": "done"},
        ],
        recipe="# a recipe\ndetect: {min_face: 20}\n",
        versions={"torch": "2.14"},
        device="NVIDIA H100",
        command="sfplus run demo",
        created="23 November 2025",
    )  # fmt: skip


def rendered(report: Report, folder: Path) -> tuple[str, Page]:
    render(report, folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


def test_page_tells_everything(tmp_path: Path) -> None:
    report = full()
    text, page = rendered(report, tmp_path)
    words = " ".join("".join(page.text).replace("\u202f", " ").split())
    mean, error = 100 * result(1).mean, 100 * result(1).standard_error
    for expected in (
        "LFW, aligned", "These are drawn faces", f"{mean:.2f} % ± {error:.2f}", "sphereface protocol", "99.30 %",
        "published: its README", "not measurable", "Two people taken for one", "One person taken for two",
        "0.610 above 0.300, fold 5", "57 of 7,701", "and 17 more", "And 2 more", "They are cropped at the centre",
        "is cut short", "get it again", "Detected: Ann/Ann_0001", "1 h 02 min", "7,701 photos", "0123456789ab",
        "# a recipe", "torch 2.14", "NVIDIA H100", "sfplus run demo", "23 November 2025",
    ):  # fmt: skip
        assert expected in words, expected
    assert text.startswith("<!DOCTYPE html>")
    figures = {attributes["id"] for tag, attributes in page.elements if tag == "figure" and "id" in attributes}
    assert figures == {f"figure-{k}" for k in ("folds", "roc", "histogram")} | {
        f"figure-history-{k}" for k in ("loss", "accuracy", "energy")
    }
    assert sum(tag == "svg" for tag, _ in page.elements) == 6 + 1


def test_pictures_are_inside_the_page(tmp_path: Path) -> None:
    _, page = rendered(full(), tmp_path)
    sources = [attributes["src"] or "" for tag, attributes in page.elements if tag == "img"]
    jpeg, png = (base64.b64encode(data).decode() for data in (JPEG, PNG))
    assert sources.count(f"data:image/jpeg;base64,{jpeg}") == 3
    assert sources.count(f"data:image/png;base64,{png}") == 2


def test_page_loads_nothing(tmp_path: Path) -> None:
    text, page = rendered(full(), tmp_path)
    assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        assert not [key for key in attributes if key.startswith("on")]
        for key in ("src", "href", "xlink:href", "srcset", "action"):
            assert (attributes.get(key) or "#").startswith(("#", "data:image/"))
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    plain = full()
    report = replace(
        full(EVIL),
        title=EVIL, notice=EVIL, recipe=EVIL, command=EVIL, device=EVIL, created=EVIL, versions={EVIL: EVIL},
        results={EVIL: plain.results["SphereFace"], "b": plain.results["SphereFace+"]},
        published=[{"name": EVIL, "accuracy": 0.5, "source": EVIL}],
        histories={EVIL: plain.histories["SphereFace"]},
        stages=[{"stage": EVIL, "state": EVIL, "device": EVIL, "counts": {EVIL: 1}, "fingerprint": EVIL}],
    )  # fmt: skip
    text, page = rendered(report, tmp_path)
    _, harmless = rendered(plain, tmp_path / "plain")
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in harmless.elements}
    assert "onerror" not in {key for _, attributes in page.elements for key in attributes}
    assert "\u202e" not in text
    assert EVIL.replace("\u202e\n", "\\u202e\\n").replace("\udc80", "\\udc80") in page.text, "not the whole text"
    data = json.loads((tmp_path / "report.json").read_bytes())
    assert data["title"] == EVIL and data["failures"][0]["photo"] == EVIL


def test_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        render(full(), tmp_path / name)
    for file in ("report.html", "report.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["report.html", "report.json"]


def test_data_hold_the_same_facts(tmp_path: Path) -> None:
    report = full()
    render(report, tmp_path)
    data = json.loads((tmp_path / "report.json").read_bytes())
    assert list(data)[:4] == ["title", "notice", "results", "published"]
    assert Result.from_dict(data["results"]["SphereFace+"]).to_dict() == report.results["SphereFace+"].to_dict()
    assert data["results"]["SphereFace+"]["tar_at_far"]["0.0001"] is None
    assert 0.5 < data["results"]["SphereFace+"]["auc"] < 1
    assert len(data["undetected"]["names"]) == 57 and len(data["failures"]) == 102
    assert data["worst"]["false_accepts"] == [
        {"left_name": "Ann/Ann_0001", "right_name": "Bo Li/Bo Li_0002", "score": 0.61, "fold": 4, "threshold": 0.3}
    ]
    assert data["histories"]["SphereFace+"][-1] == {"step": 6, "loss": None}
    assert data["gallery"] == [["Detected: Ann/Ann_0001"]]


def test_what_is_empty_is_left_out(tmp_path: Path) -> None:
    text, page = rendered(Report(title="Nothing yet"), tmp_path)
    assert not {"section", "table", "figure", "img", "pre"} & {tag for tag, _ in page.elements}
    text, page = rendered(Report(title="One", results={"SphereFace+": result(1)}), tmp_path)
    assert [tag for tag, _ in page.elements].count("section") == 3
    assert "Of the same pairs" not in text
    for part in ("worst", "undetected", "failures", "gallery", "histories", "stages", "recipe", "published"):
        empty = None if part == "undetected" else type(getattr(full(), part))()
        rendered(replace(full(), results={}, **{part: empty}), tmp_path)


def test_one_model_against_another_is_counted_pair_by_pair(tmp_path: Path) -> None:
    text, _ = rendered(full(), tmp_path)
    first, last = result(0).correct, result(1).correct
    won, lost = re.findall(r"<b>(\d+)</b> (?:rightly|wrong)", text)
    assert (int(won), int(lost)) == (int((last & ~first).sum()), int((first & ~last).sum()))


def test_published_accuracy_must_be_a_fraction() -> None:
    with pytest.raises(UsageError, match="not a fraction"):
        Report(title="", published=[{"name": "SphereFace", "accuracy": 99.3, "source": ""}])


def test_worst_pairs_are_judged_by_their_own_fold() -> None:
    scores = np.array([0.9, 0.5, 0.4, 0.9, 0.1, 0.45, 0.9, 0.39])
    same = np.array([True, False, False, True, True, True, True, False])
    fold = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    found = Result("sphereface", np.zeros(2), np.array([0.3, 0.5]), scores, same, fold)
    pairs = Pairs(("A/A_0001",) * 8, ("A/A_0002",) * 8, same, fold)
    accepts, rejects = worst_pairs(found, pairs, 5)
    assert accepts.tolist() == [1, 2] and rejects.tolist() == [4, 5]
    assert [side.tolist() for side in worst_pairs(found, pairs, 1)] == [[1], [4]]
    with pytest.raises(PairsError, match="other pairs"):
        worst_pairs(found, Pairs(pairs.left, pairs.right, ~same, fold), 1)
