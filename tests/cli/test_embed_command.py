"""`sfplus embed` writes the features of a folder of photos."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from sfplus.images import read_photo
from sfplus.io.tables import read_parquet

Command = Callable[..., object]


def test_embed_gives_the_features_of_the_embedder(
    drawn: Path, tmp_path: Path, untrained_model: Path, sfplus: Command
) -> None:
    from sfplus import Embedder

    assert sfplus("embed", drawn, tmp_path / "out", "--model", untrained_model).code == 0
    features = load_file(tmp_path / "out/features.safetensors")["features"]
    names = read_parquet(tmp_path / "out/index.parquet")["photo"]
    assert features.shape == (12, 32) and names == sorted(names)
    expected = Embedder(untrained_model, "cpu")([drawn / names[0], read_photo(drawn / names[1])])
    cosine = (expected * features[:2]).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(features[:2], axis=1)
    assert cosine.min() > 0.98  # the crops of the stage are JPEG files
