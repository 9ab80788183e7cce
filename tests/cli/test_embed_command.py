"""`sfplus embed` writes the features of a folder of photos."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from result_files import read_parquet
from safetensors.numpy import load_file

from sfplus.images import read_photo

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


def test_the_features_of_all_faces_are_numbered_like_the_faces(
    unusual_photos: Path, tmp_path: Path, untrained_model: Path, sfplus: Command
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("two faces.jpg", "plain.jpg"):
        shutil.copy(unusual_photos / "good" / name, tmp_path / "in")
    words = ["embed", tmp_path / "in", tmp_path / "out", "--model", untrained_model]
    answer = sfplus(*words)
    assert "1 more face in 1 photo was left out; --choose all computes their features" in answer.err
    assert read_parquet(tmp_path / "out/index.parquet")["photo"] == ["plain.jpg", "two faces.jpg"]
    one = dict(zip(*(read_parquet(tmp_path / "out/index.parquet")[key] for key in ("photo", "face")), strict=True))
    answer = sfplus(*words, "--choose", "all")
    index, faces = (read_parquet(tmp_path / "out" / name) for name in ("index.parquet", "faces.parquet"))
    assert "3 crops" in answer.out and "more face" not in answer.err
    assert index["photo"] == faces["photo"] == ["plain.jpg", "two faces.jpg", "two faces.jpg"]
    assert index["face"] == faces["face"] == [0, 0, 1] and one["two faces.jpg"] in (0, 1)
    features = load_file(tmp_path / "out/features.safetensors")["features"]
    assert len(features) == 3 and not np.allclose(features[1], features[2])


def test_what_is_needed_to_compare_features_is_beside_them(
    drawn: Path, tmp_path: Path, untrained_model: Path, sfplus: Command
) -> None:
    from sfplus import Embedder

    answer = sfplus("embed", drawn, tmp_path / "out")
    about = json.loads((tmp_path / "out/model.json").read_text())
    assert about["model"] == "sphereface10-distilled" and about["template"] == "sphereface-112x96"
    assert f"the same person above {about['verification']['threshold']:.3f}" in answer.out
    mean = load_file(tmp_path / "out/mean.safetensors")["mean"]
    first, second = load_file(tmp_path / "out/features.safetensors")["features"][:2] - mean
    names = read_parquet(tmp_path / "out/index.parquet")["photo"]
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    expected = Embedder("sphereface10-distilled", "cpu").similarity(drawn / names[0], drawn / names[1])
    assert abs(cosine - float(expected)) < 0.04  # the crops of the stage are JPEG files

    answer = sfplus("embed", drawn, tmp_path / "out", "--model", untrained_model)
    assert json.loads((tmp_path / "out/model.json").read_text())["verification"] is None
    assert not (tmp_path / "out/mean.safetensors").exists() and "to compare" not in answer.out
