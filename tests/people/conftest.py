"""A folder of grouped photos without detection: features of three people, and crops of one colour each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file

from sfplus.images import CACHE
from sfplus.people.grouped_photos import GroupedPhotos
from sfplus.verification.decision import DecisionRule

PEOPLE = {"anna": 4, "ben": 3, "cleo": 1}
VERIFICATION = {"threshold": 0.4, "accuracy": 0.99, "pairs": "2000 pairs of pairs.txt", "protocol": "sphereface"}


def make_features(names: list[str]) -> NDArray[np.float32]:
    """Features of 16 numbers, near the same direction for photos of one person: `anna-1.jpg`."""
    rng = np.random.default_rng(0)
    people = dict(zip("abcdefgh", np.linalg.qr(rng.standard_normal((16, 8)))[0].T, strict=True))
    files = [Path(name).name.strip() for name in names]
    noise = [np.random.default_rng(list(file.encode())).standard_normal(16) for file in files]
    features = [people[file[0]] + 0.05 * own for file, own in zip(files, noise, strict=True)]
    return np.array(features, np.float32) + 0.3


@pytest.fixture
def make_grouped(tmp_path: Path) -> Callable[..., GroupedPhotos]:
    """Write the results that `sfplus group` has before it groups: a photo for each name, a face in each photo."""

    def make(names: list[str] | None = None, scores: bool = True) -> GroupedPhotos:
        names = names or [f"{person}-{number}.jpg" for person, count in PEOPLE.items() for number in range(count)]
        out, photos, features = tmp_path / "out", tmp_path / "photos", tmp_path / "out" / CACHE / "features"
        for folder in (photos, features):
            folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            Image.new("RGB", (96, 112), (40, 90, 160)).save(photos / name)
        save_file({"features": make_features(names)}, features / "features.safetensors")
        config = {"verification": VERIFICATION, "feature_size": 16} if scores else {}
        if scores:
            rng = np.random.default_rng(0)
            drawn = (np.clip(rng.normal(mean, 0.1, 1000), -1, 1) for mean in (0.9, 0))
            same, different = (np.sort(scores).astype(np.float32) for scores in drawn)
            DecisionRule(np.full(16, 0.3, np.float32), same, different, VERIFICATION).save(out)
        model = {"name": "model", "network": "", "input": "", "content": "abc", "config": config}
        table = {
            "photo": names,
            "face": [0] * len(names),
            "person": [""] * len(names),
            "name": [""] * len(names),
            "confidence": [None] * len(names),
            "box": [[1.0, 2.0, 30.0, 40.0]] * len(names),
            "crop": [f"../photos/{name}" for name in names],
            "digest": [f"{name:-<64}" for name in names],
        }
        counts = {"undetected": 2, "failed": 1}
        threshold = None if scores else 0.6
        grouped = GroupedPhotos(out, photos, model, f"{CACHE}/features", table, counts, threshold)
        grouped.save()
        return grouped

    return make
