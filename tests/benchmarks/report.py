"""Time to render a report of 6,000 pairs (as many as LFW's view 2) and two models; the goal is under 3 seconds.

This includes what the report computes: error rates, bootstrap intervals, the comparison, the hardest people.
Run on an otherwise idle machine: make bench
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from racing import race

from sfplus.datasets.pairs import Pairs
from sfplus.datasets.portraits import draw_portrait
from sfplus.hypersphere import measure_uniformity
from sfplus.images import encode_image
from sfplus.reports import plots
from sfplus.reports.html import Report, render, worst_crops
from sfplus.reports.metrics import compute_metrics
from sfplus.verification.protocols import PROTOCOLS

PAIRS, PEOPLE, CLASSES, ROUNDS = 6000, 4000, 10_572, 5


def random_report() -> Report:
    """Return a report with random features of two models."""
    rng = np.random.default_rng(0)
    same, fold = np.arange(PAIRS) % 2 == 0, np.arange(PAIRS, dtype=np.int64) // 600
    first = rng.integers(0, PEOPLE, PAIRS)
    second = np.where(same, first, (first + rng.integers(1, PEOPLE, PAIRS)) % PEOPLE)
    left, right = (tuple(f"P_{k}/P_{k}_{i:05d}" for i, k in enumerate(people)) for people in (first, second))
    pairs = Pairs(left, right, same, fold)
    centres = rng.standard_normal((PEOPLE, 256))
    results, protocols = {}, {}
    for name, noise in (("SphereFace", 1.4), ("SphereFace+", 1.35)):
        features = [centres[people] + noise * rng.standard_normal((PAIRS, 256)) for people in (first, second)]
        protocols[name] = {key: protocol(*features, same, fold) for key, protocol in PROTOCOLS.items()}
        results[name] = protocols[name]["sphereface"]
    crop = encode_image(draw_portrait(0, 0).photo[69:181, 77:173])
    history = [{"step": k, "loss": 9 / (k + 1), "accuracy": k / 3000, "energy": 0.5} for k in range(2800)]
    return Report(
        title="Benchmark",
        results=results,
        pairs=dict.fromkeys(results, pairs),
        protocols=protocols,
        worst=worst_crops(results["SphereFace+"], left, right, lambda _: crop),
        histories=dict.fromkeys(results, history),
        spreads=dict.fromkeys(results, measure_uniformity(torch.randn(CLASSES, 512))),
    )


def main() -> None:
    report = random_report()
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            "render": lambda: render(report, Path(folder)),
            "of which metrics": lambda: compute_metrics(report.results, report.pairs),
            "of which ROC and DET": lambda: [plots.roc_plot(report.results), plots.det_plot(report.results)],
        }
        medians = race(runs, ROUNDS)
        size = (Path(folder) / "report.html").stat().st_size
    print(f"{PAIRS:,} pairs, {len(report.results)} models; median of {ROUNDS} rounds; page of {size / 1e6:.2f} MB")
    for name, seconds in medians.items():
        print(f"  report  {name:<52} {seconds:7.2f} s")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
