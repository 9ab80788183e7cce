"""`sfplus verify` on photos and on features, with one model and with two."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

from sfplus.datasets.pairs import draw_pairs, write_pairs
from sfplus.images import list_photos
from sfplus.io.tables import read_parquet
from sfplus.networks import create
from sfplus.weights.model_folder import save_model


@pytest.fixture(scope="module")
def task(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write pairs of drawn people and two untrained models."""
    folder = tmp_path_factory.mktemp("verify")
    write_pairs(folder / "pairs.txt", draw_pairs(list_photos(drawn), 2, 3, 0))
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        shape = {"network": "sphereface4", "feature_size": 16, "width": 0.125, "template": "sphereface-112x96"}
        published = {"lfw": 99.3, "runs": [99.3, 99.1], "protocol": "sphereface", "source": "its README"}
        published = published if name == "one" else {"lfw": "<b>"}
        network = create("sphereface4", feature_size=16, width=0.125)
        save_model(folder / "models" / name, network, shape | {"published": published})
    return folder


def verify(sfplus: Callable, task: Path, *words: object, workspace: str = "data"):
    return sfplus("verify", *words, "--workspace", task / workspace)


def read_report(folder: Path) -> dict:
    names = {"report.html", "report.json", "report.md"}
    assert {path.name for path in folder.iterdir()} == names
    return json.loads((folder / "report.json").read_bytes())


@pytest.fixture(scope="module")
def embedded(task: Path, drawn: Path) -> dict[str, Path]:
    """The features of the photos by either model, as `.npz`."""
    from sfplus.cli.embed import embed_folder
    from sfplus.recipes.steps import UserModel

    files = {}
    for name in ("one", "two"):
        embed_folder(drawn, task / f"{name}-out", UserModel(str(task / "models" / name)), "cpu")
        features = load_file(task / f"{name}-out" / "features.safetensors")["features"]
        photos = read_parquet(task / f"{name}-out" / "index.parquet")["photo"]
        files[name] = task / f"{name}.npz"
        np.savez(files[name], names=np.array(photos), features=features)
    return files


def test_two_models_are_verified_on_the_same_photos(task: Path, drawn: Path, sfplus: Callable) -> None:
    words = (drawn, task / "pairs.txt", "--model", task / "models/one", "--against", task / "models/two")
    answer = verify(sfplus, task, *words, "--out", task / "photos")
    assert answer.code == 0, answer.err
    assert (
        re.search(r"^two: .* pairs\)\none: .* pairs\)\n", answer.out)
        and f"report: {task / 'photos/report.html'}" in answer.out
    )
    data = read_report(task / "photos")
    assert list(data["results"]) == ["two", "one"] and "exact" in data["protocols"]["one"]
    assert data["published"] == [], "its config.json has a figure on LFW, and these pairs are not LFW's"
    assert f"--against {task / 'models/two'}" in data["command"] and data["command"].startswith("sfplus verify ")
    assert set(data["hashes"]) == {"photos: drawn0", "pairs: pairs.txt", "model: two", "model: one"}
    again = verify(sfplus, task, *words, "--out", task / "again")
    assert (
        "report" in again.err and again.err.count("fresh") == 6
    )  # only the report is new, since it names another folder


def test_features_give_the_same_scores_as_their_photos(
    task: Path, drawn: Path, embedded: dict[str, Path], sfplus: Callable
) -> None:
    answer = sfplus("verify", "--features", embedded["one"], "--pairs", task / "pairs.txt", "--out", task / "features",
                    "--against", embedded["two"])  # fmt: skip
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[-1] == f"report: {task / 'features/report.html'}" and "one: " in answer.out
    from_features = read_report(task / "features")
    verify(sfplus, task, drawn, task / "pairs.txt", "--model", task / "models/one", "--out", task / "single")
    photos = read_report(task / "single")["results"]["one"]
    assert list(from_features["results"]) == ["two", "one"]
    np.testing.assert_allclose(from_features["results"]["one"]["scores"], photos["scores"], atol=1e-6)
    assert (
        from_features["results"]["one"]["left"] == photos["left"]
        and from_features["results"]["one"]["mean"] == photos["mean"]
    )


@pytest.mark.parametrize("kind", ["safetensors", "parquet", "npz"])
def test_features_are_read_from_all_file_formats(
    kind: str, task: Path, embedded: dict[str, Path], tmp_path: Path, sfplus: Callable
) -> None:
    with np.load(embedded["one"]) as file:
        names, features = file["names"].tolist(), file["features"]
    if kind == "safetensors":
        path = task / "one-out/features.safetensors"
    elif kind == "parquet":
        path = tmp_path / "one.parquet"
        pq.write_table(pa.table({"names": names, "features": list(features)}), path)
    else:
        path = embedded["one"]
    answer = sfplus("verify", "--features", path, "--pairs", task / "pairs.txt", "--out", tmp_path / "out")
    assert answer.code == 0 and "12 pairs" in answer.out, answer.err


@pytest.mark.parametrize("protocol", ["sphereface", "insightface", "opensphere", "exact"])
def test_a_protocol_gives_the_same_result_for_photos_and_features(
    protocol: str, task: Path, drawn: Path, embedded: dict[str, Path], tmp_path: Path, sfplus: Callable
) -> None:
    words = ("--protocol", protocol, "--out", tmp_path / "out")
    answer = sfplus("verify", "--features", embedded["one"], "--pairs", task / "pairs.txt", "--mirrored", *words)
    assert answer.code == 0 and f"({protocol} protocol, 12 pairs)" in answer.out, answer.err
    from_features = read_report(tmp_path / "out")["results"]["one"]
    answer = verify(sfplus, task, drawn, task / "pairs.txt", "--model", task / "models/one", *words)
    assert answer.code == 0 and f"({protocol} protocol, 12 pairs)" in answer.out, answer.err
    photos = read_report(tmp_path / "out")
    assert photos["results"]["one"]["protocol"] == from_features["protocol"] == protocol
    np.testing.assert_allclose(from_features["scores"], photos["results"]["one"]["scores"], atol=1e-6)
    assert photos["results"]["one"]["mean"] == photos["protocols"]["one"][protocol]["mean"]
    assert list(photos["protocols"]["one"]) == ["sphereface", "insightface", "opensphere", "exact"]


def test_pairs_without_features_are_an_error_or_skipped(
    task: Path, embedded: dict[str, Path], tmp_path: Path, sfplus: Callable
) -> None:
    with np.load(embedded["one"]) as file:
        np.savez(tmp_path / "few.npz", names=file["names"][1:], features=file["features"][1:])
    words = ("--features", tmp_path / "few.npz", "--pairs", task / "pairs.txt", "--out", tmp_path / "out")
    answer = sfplus("verify", *words)
    assert answer.code == 1 and "1 of its photos have no features, the first is person_000" in answer.err
    answer = sfplus("verify", *words, "--undetected", "skip")
    assert answer.code == 0, answer.err
    data = read_report(tmp_path / "out")
    kept = len(data["results"]["few"]["scores"])
    policy = data["undetected"]["policy"]
    assert kept < 12 and policy.startswith(f"{12 - kept} pairs that contain a photo without features")
    assert len(data["undetected"]["names"]) == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "give a folder of photos, or --features and --pairs"),
        (["--features", "F.npz"], 2, "--features: needs --pairs"),
        (["--features", "F.npz", "--pairs", "pairs.txt"], 1, "F.npz"),
        (["--features", "F.npz", "--pairs", "pairs.txt", "--out", "x"], 1, "F.npz"),
        (["--features", "F.npz", "--pairs", "nope.txt", "--out", "x"], 1, "nope.txt"),
        (["--features", "F.npz", "--pairs", "pairs.txt", "--out", "x", "--protocol", "y"], 2, "is called 'y'; use sph"),
        (
            ["--features", "F.npz", "--pairs", "pairs.txt", "--out", "x", "--against", "y"],
            2,
            "is not a file of features",
        ),
        (
            ["--features", "pairs.txt", "--pairs", "pairs.txt", "--out", "x", "--against", "./pairs.txt"],
            2,
            "is the same file as --features",
        ),
        (["photos", "--against", "F.npz"], 2, "is a file of features, beside photos; give a model, or both as"),
        (["photos", "--against", "sphereface10-small"], 2, "is the same model; give a different one"),
        (["photos", "--against", "nope"], 2, "there is no model 'nope'"),
        (["photos", "--protocol", "nope"], 2, "verify.protocol"),
    ],
)
def test_invalid_arguments_are_reported_in_one_line_and_write_nothing(
    words: list[str],
    code: int,
    message: str,
    task: Path,
    tmp_path: Path,
    sfplus: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "folder/photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "folder")
    for path in (Path("pairs.txt"), Path("photos/pairs.txt")):
        path.write_bytes((task / "pairs.txt").read_bytes())
    before = sorted(Path().rglob("*"))
    answer = sfplus("verify", *words)
    assert answer.code == code and message in answer.err.replace("\n", " "), answer
    assert "Traceback" not in answer.err and sorted(Path().rglob("*")) == before
