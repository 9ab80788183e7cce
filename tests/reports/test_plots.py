from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
import torch
from samples import SAME, result

from sfplus.hypersphere import measure_uniformity
from sfplus.reports.plots import (
    _curve,
    angle_plot,
    decision_plot,
    det_plot,
    fold_plot,
    histogram_plot,
    history_plot,
    roc_plot,
)
from sfplus.verification.result import Result

HOSTILE = "_a $x^{2 <script>alert(1)</script> --> \n\x00 é &"
ROWS = [{"step": 10 * i, "loss": 9 - i / 10, "accuracy": i / 50} for i in range(50)]


def draw_all(name: str = "SphereFace") -> dict[str, str]:
    results = {name: result(0), "SphereFace+": result(1)}
    scores, kinds = result(0).scores, (SAME, ~SAME)
    layers = [measure_uniformity(weight) for weight in (torch.eye(5), torch.eye(4) + 0.1)]
    plots = {
        "roc": roc_plot(results),
        "det": det_plot(results),
        "histogram": histogram_plot(result(0)),
        "folds": fold_plot(results),
        "angles": angle_plot({name: layers[0], "SphereFace+": layers[1]}),
        "decision": decision_plot(*(scores[kind] for kind in kinds), score=0.25),
    }
    return plots | history_plot({name: ROWS, "second": [{"step": 5, "energy": 0.5}]})


@pytest.fixture(scope="module")
def plots() -> dict[str, str]:
    return draw_all()


def texts(svg: str) -> set[str]:
    return {element.text or "" for element in ET.fromstring(svg).iter() if element.tag.endswith("}text")}


def test_each_plot_is_one_svg_with_the_expected_text(plots: dict[str, str]) -> None:
    assert list(plots) == ["roc", "det", "histogram", "folds", "angles", "decision", "loss", "accuracy", "energy"]
    assert {"SphereFace", "SphereFace+", "true accept rate", "1 %"} <= texts(plots["roc"])
    assert {"same person", "different people", "pairs", f"threshold {result(0).threshold.mean():.3f}"} <= texts(
        plots["histogram"]
    )
    assert {"SphereFace", "SphereFace+", "false reject rate", "5 %"} <= texts(plots["det"])
    assert {"SphereFace", "classes"} <= texts(plots["angles"]) and "these photos, 0.250" in texts(plots["decision"])
    assert {"SphereFace", "SphereFace+", "accuracy of each fold"} <= texts(plots["folds"])
    assert {"SphereFace", "loss", "step"} <= texts(plots["loss"])
    assert "SphereFace" not in texts(plots["energy"])


@pytest.mark.slow
def test_same_data_gives_the_same_bytes_and_leaves_the_settings_of_matplotlib(plots: dict[str, str]) -> None:
    before = dict(matplotlib.rcParams)
    assert draw_all() == plots
    assert dict(matplotlib.rcParams) == before


def test_plots_take_the_colours_of_the_page(plots: dict[str, str]) -> None:
    for svg in plots.values():
        assert "var(--ink-soft, #" in svg
        assert set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{3,6})", svg)) <= {"#ffffff", "#000000"}
        assert 'style="fill: #ffffff' not in svg, "a white background would show on a dark page"


def test_plots_of_one_page_have_unique_ids_and_refer_to_their_own(plots: dict[str, str]) -> None:
    ids_before: set[str] = set()
    for svg in plots.values():
        ids = re.findall(r'<[A-Za-z]+ [^<>]*?\bid="([^"]+)"', svg)
        assert len(ids) == len(set(ids))
        assert not ids_before & set(ids)
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', svg)) <= set(ids)
        ids_before |= set(ids)


def test_plots_load_nothing(plots: dict[str, str]) -> None:
    for svg in plots.values():
        assert not re.search(r'(?:href|src)="(?!#)', svg)
        assert "<metadata" not in svg and "<!DOCTYPE" not in svg


def test_hostile_names_stay_text() -> None:
    for kind, svg in draw_all(HOSTILE).items():
        assert "<script" not in svg
        assert "script" not in {element.tag for element in ET.fromstring(svg).iter()}
        if kind in ("roc", "det", "folds", "angles", "loss"):
            words = " ".join(element.text or "" for element in ET.fromstring(svg).iter())  # a legend has several lines
            assert "_a $x^{2 <script>alert(1)</script> --> \\n\\x00 é &" in " ".join(words.split())


def test_history_skips_values_that_are_not_finite_numbers() -> None:
    bad = [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": None}, {"loss": 1.0}, {"step": 3, "loss": "2"}]
    bad += [{"step": 4, "loss": 10**400}, {"step": 4, "loss": 1e308}, {"step": 1e308, "loss": 1}]
    assert history_plot({"run": bad}) == {}
    assert history_plot({}) == {}
    assert list(history_plot({"run": [*bad, {"step": 4, "loss": 1}]})) == ["loss"]
    assert list(history_plot({"run": [{"step": 1, "margin": 2}]}, metrics=("margin",))) == ["margin"]


def test_long_history_is_drawn_as_means() -> None:
    steps, values = _curve([{"step": i, "loss": 2 * i} for i in range(30000)], "loss")
    np.testing.assert_allclose(steps, np.arange(300) * 100 + 49.5)
    np.testing.assert_allclose(values, 2 * steps)


@pytest.mark.parametrize("scores", [np.zeros(20), np.where(np.arange(20) % 2 == 0, 1.0, -1.0)])
def test_degenerate_scores_can_be_draw_all(scores: np.ndarray) -> None:
    same, fold = np.arange(20) % 2 == 0, np.arange(20) // 10
    flat = Result("sphereface", np.array([0.5, 0.5]), np.zeros(2), scores, same, fold)
    for svg in (roc_plot({"a": flat}), det_plot({"a": flat}), histogram_plot(flat), fold_plot({"a": flat})):
        ET.fromstring(svg)
