"""A report with all parts."""

from __future__ import annotations

import math

import numpy as np
import torch

from sfplus.datasets.pairs import Pairs
from sfplus.hypersphere import measure_uniformity
from sfplus.images import encode_image
from sfplus.reports.html import PairCrop, Report, Undetected
from sfplus.verification.protocols import protocol_summaries, sphereface
from sfplus.verification.result import Result

_IMAGE = np.indices((112, 96)).sum(0).astype(np.uint8)[:, :, None].repeat(3, 2)
JPEG, PNG = encode_image(_IMAGE, ".jpg"), encode_image(_IMAGE, ".png")
SAME, FOLD = np.arange(200) % 2 == 0, np.arange(200) // 20


def features(seed: int, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return features of 200 pairs of 40 people in 10 folds; the people are the same for all seeds."""
    rng = np.random.default_rng(7)
    left, right = rng.normal(size=(2, 200, 8))
    right[SAME] += left[SAME]
    left = left + noise * np.random.default_rng(seed).normal(size=left.shape)
    return left, right


def result(seed: int, noise: float = 1.0) -> Result:
    """Return the result of these features by the default protocol."""
    return sphereface(*features(seed, noise), SAME, FOLD)


def pairs() -> Pairs:
    """Return the pairs of `result`."""
    left = [f"Person_{i % 40}/Person_{i % 40}_{i:04d}" for i in range(200)]
    right = [f"Person_{(i + 1 - s) % 40}/Person_{(i + 1 - s) % 40}_{i + 500:04d}" for i, s in enumerate(SAME)]
    return Pairs(tuple(left), tuple(right), SAME, FOLD.astype(np.int64))


def full(name: str = "Ann/Ann_0001") -> Report:
    """Return a report with all parts; `name` is the name of a photo that occurs in many of them."""
    crops = [PairCrop(name, "Bo Li/Bo Li_0002", JPEG, PNG, 0.61, 4, 0.3)]
    rows = [{"step": i, "loss": 9.0 - i, "accuracy": 0.1 * i, "energy": 0.5} for i in range(5)]
    results = {"SphereFace": result(0), "SphereFace+": result(1)}
    torch.manual_seed(0)
    return Report(
        title="LFW, aligned",
        notice="These are drawn faces",
        results=results,
        pairs=dict.fromkeys(results, pairs()),
        protocols={
            model: protocol_summaries(*features(seed), SAME, FOLD, mirrored=True) for seed, model in enumerate(results)
        },
        published=[{"name": "SphereFace, released", "accuracy": 0.993, "source": "its README"}],
        worst={"false_accepts": crops, "false_rejects": crops},
        undetected=Undetected("They are cropped at the centre", [f"{name}{i}" for i in range(57)], 7701),
        failures=[{"photo": name, "reason": "is cut short", "remedy": "get it again"}] * 102,
        gallery=[(f"Detected: {name}", JPEG)],
        histories={"SphereFace": rows, "SphereFace+": [*rows, {"step": 6, "loss": math.nan}]},
        spreads={model: measure_uniformity(torch.randn(50, 16)) for model in results},
        stages=[
            {"stage": "detect", "state": "fresh", "seconds": 3725.0, "device": "cpu", "counts": {"photos": 7701},
             "fingerprint": "0123456789abcdef"},
            {"stage": "verify", "state": "done"},
        ],
        recipe="# a recipe\ndetect: {min_face: 20}\n",
        hashes={"pairs: pairs.txt": "ab" * 32},
        versions={"torch": "2.14"},
        device="NVIDIA H100",
        command="sfplus run demo",
        created="23 November 2025",
    )  # fmt: skip
