"""Figures of classifiers: what is drawn, from the SVG's text, and pictures that can be opened."""

import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from sfplus.reports.curves import plane_plot, training_curves


def rows(count: int, start: float) -> list[dict[str, float]]:
    found = []
    for step in range(1, count + 1):
        row = {"step": step, "loss": start / step, "energy.conv": 0.5, "energy.fc": 0.4, "energy.score": 0.3}
        found.append(row | ({"accuracy": step / count} if step % 2 == 0 else {}))
    return found


def test_curves_of_one_run_have_its_layers() -> None:
    page = training_curves({"": rows(10, 4.0)}, "svg", "a title & <more>").decode()
    text = " ".join(ET.fromstring(page).itertext())
    for word in ("training loss", "accuracy on the test set", "energy of each layer", "conv", "score", "<more>"):
        assert word in text


def test_curves_of_several_runs_have_their_names_and_are_the_same_bytes() -> None:
    runs = {"_baseline": rows(10, 4.0), "MHE": rows(10, 3.0)}
    page = training_curves(runs)
    text = " ".join(ET.fromstring(page.decode()).itertext())
    assert "_baseline" in text and "MHE" in text and "mean energy of the hidden layers" in text
    assert page == training_curves(runs)


@pytest.mark.parametrize("history", [[], [{"step": 1, "loss": float("nan")}], rows(1, 2.0)])
def test_short_histories(history: list[dict[str, float]]) -> None:
    picture = Image.open(io.BytesIO(training_curves({"": history}, "png")))
    assert picture.size[0] > 500


def test_a_plane_for_each_run() -> None:
    random = np.random.default_rng(0)
    run = {"features": random.normal(size=(50, 2)), "labels": np.arange(50) % 3, "classifiers": np.eye(3)[:, :2]}
    sizes = [
        Image.open(io.BytesIO(plane_plot({str(k): run for k in range(count)}, ["a", "b", "c"]))).size
        for count in (1, 3)
    ]
    assert sizes[1][0] > 2 * sizes[0][0] - 200 and sizes[0][1] == sizes[1][1]
