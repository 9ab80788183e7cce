"""`sfplus verify` on photos and on features, with one model and with two."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from result_files import read_parquet
from safetensors.numpy import load_file
from slow_cases import mostly_slow
from untrained_models import save_untrained

from sfplus.datasets.pairs import draw_pairs, read_pairs, write_pairs
from sfplus.images import encode_image, list_photos
from sfplus.networks import create
from sfplus.weights.model_folder import save_model


@pytest.fixture(scope="module")
def task(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write pairs of drawn people and two untrained models."""
    folder = tmp_path_factory.mktemp("verify")
    write_pairs(folder / "pairs.txt", draw_pairs(list_photos(drawn), 2, 3, 0))
    for seed, name in enumerate(("one", "two")):
        published = {"lfw": 99.3, "runs": [99.3, 99.1], "protocol": "sphereface", "source": "its README"}
        published = published if name == "one" else None
        save_untrained(folder / "models" / name, seed=seed, published=published)
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


@pytest.mark.parametrize(
    ("models", "remedy"),
    [
        (("own", "one"), "add --network their_parts:small if you trust this code"),
        (
            ("one", "own"),
            "convert it first, if you trust this code: sfplus convert {own} MODEL.onnx --network their",
        ),
    ],
)
def test_a_model_whose_network_is_code_says_how_to_use_it(
    task: Path, drawn: Path, sfplus: Callable, models: tuple[str, str], remedy: str
) -> None:
    own = task / "models" / "own"
    shutil.copytree(task / "models" / "one", own, dirs_exist_ok=True)
    config = json.loads((own / "config.json").read_text()) | {"network": "their_parts:small"}
    (own / "config.json").write_text(json.dumps(config))
    first, second = (task / "models" / name for name in models)
    answer = verify(sfplus, task, drawn, task / "pairs.txt", "--model", first, "--against", second, workspace="code")
    assert answer.code == 2 and remedy.format(own=own) in answer.err


@pytest.mark.slow
@pytest.mark.plots
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


@pytest.mark.slow
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
    missing = f"1 of its 12 names matches no photo of {tmp_path / 'few.npz'}: person_000"
    assert answer.code == 1 and missing in answer.err
    answer = sfplus("verify", *words, "--undetected", "skip")
    assert answer.code == 0, answer.err
    data = read_report(tmp_path / "out")
    kept = len(data["results"]["few"]["scores"])
    policy = data["undetected"]["policy"]
    assert kept < 12 and policy.startswith(f"{12 - kept} pairs that contain a photo without usable features")
    assert len(data["undetected"]["names"]) == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "give a folder of photos, or --features and --pairs"),
        (["--features", "F.npz"], 2, "--features: needs --pairs"),
        (["--features", "F.npz", "--pairs", "pairs.txt"], 2, "F.npz: does not exist"),
        (["--features", "F.npz", "pairs.txt", "--model", "x"], 2, "--model: does not go with --features"),
        (["photos", "pairs.txt", "--features", "F.npz"], 2, "photos: does not go with --features"),
        (["pairs.txt", "photos"], 2, "pairs.txt: is not a folder; give the folder of photos first"),
        (["photos", "--folds", "1"], 2, "--folds"),
        (["photos", "--folds", "9"], 1, "6 pairs of the same person and 6 of different people cannot be split into 9"),
        (["--features", "F.npz", "--pairs", "pairs.txt", "--out", "x"], 2, "F.npz"),
        (["--features", "F.npz", "--pairs", "nope.txt", "--out", "x"], 2, "nope.txt"),
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
        (["photos", "--against", "sphereface10-distilled"], 2, "is the same model; give a different one"),
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
    (tmp_path / "folder/photos/a.jpg").touch()
    monkeypatch.chdir(tmp_path / "folder")
    for path in (Path("pairs.txt"), Path("photos/pairs.txt")):
        path.write_bytes((task / "pairs.txt").read_bytes())
    before = sorted(Path().rglob("*"))
    answer = sfplus("verify", *words)
    assert answer.code == code and message in answer.err.replace("\n", " "), answer
    assert "Traceback" not in answer.err and sorted(Path().rglob("*")) == before


@pytest.mark.slow
def test_only_the_photos_of_the_pairs_are_worked_on_and_another_list_reuses_nothing_wrong(
    task: Path, drawn: Path, tmp_path: Path, sfplus: Callable
) -> None:
    """A list of four of the twelve photos; a change of a photo that it does not name changes nothing."""
    shutil.copytree(drawn, tmp_path / "set/photos")
    photos = [name.removesuffix(".jpg") for name in list_photos(tmp_path / "set/photos") if name.startswith("person")]
    a, b, c, d = photos[0], photos[1], photos[3], photos[4]
    (tmp_path / "set/pairs.txt").write_text(f"{a},{b},yes\n{c},{d},yes\n{a},{c},no\n{b},{d},no\n")
    words = ("verify", tmp_path / "set", "--model", task / "models/one", "--workspace", tmp_path / "data")
    answer = sfplus(*words)
    assert answer.code == 0 and "4 pairs" in answer.out and " 4 photos" in answer.err, answer.err
    (tmp_path / f"set/photos/{photos[8]}.jpg").write_bytes(b"changed")
    answer = sfplus(*words)
    assert answer.code == 0 and answer.err.count("fresh") == 5, answer.err
    (tmp_path / f"set/photos/{d}.jpg").write_bytes((tmp_path / f"set/photos/{c}.jpg").read_bytes())
    assert "fresh" not in sfplus(*words).err


@pytest.mark.parametrize(
    "layout",
    mostly_slow(["numbers", "flat", "nested", "suffix", "bare", "windows", "absolute"], ["absolute"]),
)
def test_layouts_of_photos_give_the_same_scores(
    layout: str, task: Path, drawn: Path, embedded: dict[str, Path], tmp_path: Path, sfplus: Callable
) -> None:
    """Each layout of names in the list is matched with Name/Name_0001.jpg, in photos and in features."""
    pairs = read_pairs(task / "pairs.txt")
    rename = {
        "numbers": lambda n: f"{n.split('/')[0]}/{int(n[-4:])}.jpg", "flat": lambda n: n.split("/")[1],
        "nested": lambda n: f"my/photos/{n}.png", "suffix": lambda n: f"{n}.JPG", "bare": lambda n: f"./{n}",
        "windows": lambda n: ".\\" + n.replace("/", "\\") + ".jpg", "absolute": lambda n: f"{drawn}/{n}.jpg",
    }[layout]  # fmt: skip
    rows = zip(pairs.left, pairs.right, pairs.same, pairs.fold, strict=True)
    lines = [f"{rename(a)};{rename(b)};{'same' if same else 'different'};{fold + 1}" for a, b, same, fold in rows]
    (tmp_path / "list.csv").write_bytes("\r\n".join(["# mine", "left;right;same;fold", *lines]).encode("utf-16"))
    scores = []
    for where in (task / "pairs.txt", tmp_path / "list.csv"):
        answer = sfplus("verify", "--features", embedded["one"], "--pairs", where, "--out", tmp_path / where.stem)
        assert answer.code == 0, answer.err
        scores.append(read_report(tmp_path / where.stem)["results"]["one"]["scores"])
    assert scores[0] == scores[1]
    words = (drawn, tmp_path / "list.csv", "--model", task / "models/one", "--out", tmp_path / "photos")
    answer = verify(sfplus, task, *words, workspace="layouts")
    assert answer.code == 0, answer.err
    np.testing.assert_allclose(read_report(tmp_path / "photos")["results"]["one"]["scores"], scores[0], atol=1e-6)


@pytest.mark.slow
def test_crops_are_verified_without_detection(task: Path, drawn: Path, tmp_path: Path, sfplus: Callable) -> None:
    assert sfplus("align", drawn, tmp_path / "crops").code == 0
    words = ("--model", task / "models/one", "--protocol", "exact", "--out")
    answer = verify(sfplus, task, tmp_path / "crops", task / "pairs.txt", "--crops", *words, tmp_path / "a")
    assert answer.code == 0 and "detect" not in answer.err and "12 pairs" in answer.out, answer.err
    assert verify(sfplus, task, drawn, task / "pairs.txt", *words, tmp_path / "b").code == 0
    crops, photos = (read_report(tmp_path / name) for name in "ab")
    assert crops["results"]["one"]["left"] == photos["results"]["one"]["left"]
    np.testing.assert_allclose(crops["results"]["one"]["scores"], photos["results"]["one"]["scores"], atol=1e-6)
    assert crops["undetected"] is None and "<img src=" in (tmp_path / "a/report.html").read_text()


@pytest.mark.slow
def test_a_bin_file_is_verified_in_one_step(task: Path, tmp_path: Path, sfplus: Callable) -> None:
    """Its 112x112 crops are cut to 112x96 for such a model; the scores are those of the three commands."""
    rng = np.random.default_rng(0)
    images = [encode_image(rng.integers(0, 256, (112, 112, 3)).astype(np.uint8), ".png") for _ in range(24)]
    (tmp_path / "set.bin").write_bytes(pickle.dumps((images, [True, False] * 6)))
    model = task / "models/one"
    answer = verify(sfplus, task, tmp_path / "set.bin", "--model", model, "--folds", "3", "--out", tmp_path / "a")
    assert answer.code == 0 and "12 pairs" in answer.out and "detect" not in answer.err, answer.err
    report = read_report(tmp_path / "a")
    assert "photos: set.bin" in report["hashes"] and len(report["results"]["one"]["accuracy"]) == 3
    assert sfplus("unpack", tmp_path / "set.bin", tmp_path / "crops", "--narrow").code == 0
    assert sfplus("embed", tmp_path / "crops", tmp_path / "f", "--crops", "--model", model).code == 0
    answer = sfplus("verify", "--features", tmp_path / "f/features.safetensors", "--pairs", tmp_path / "set.bin",
                    "--mirrored", "--folds", "3", "--out", tmp_path / "b")  # fmt: skip
    assert answer.code == 0, answer.err
    result = read_report(tmp_path / "b")["results"]["features"]
    np.testing.assert_allclose(report["results"]["one"]["scores"], result["scores"], atol=1e-6)
    answer = verify(sfplus, task, tmp_path / "set.bin", "--model", model, "--folds", "3", "--out", tmp_path / "a")
    assert answer.code == 0 and answer.err.count("fresh") == 3, answer.err


def test_a_bin_file_for_a_model_of_a_third_template_is_refused(task: Path, tmp_path: Path, sfplus: Callable) -> None:
    image = encode_image(np.zeros((112, 112, 3), np.uint8), ".png")
    other = encode_image(np.ones((112, 112, 3), np.uint8), ".png")
    (tmp_path / "set.bin").write_bytes(pickle.dumps(([image, other] * 8, [True, False] * 4)))
    shape = {"network": "sphereface4", "feature_size": 16, "width": 0.125, "input": "128x128"}
    network = create("sphereface4", feature_size=16, width=0.125, input="128x128")
    save_model(tmp_path / "model", network, {**shape, "template": "arcface-128x128"})
    answer = verify(sfplus, task, tmp_path / "set.bin", "--model", tmp_path / "model")
    assert (
        answer.code == 2
        and "set.bin: its crops follow arcface-112x112, the model was trained on arcface-128" in answer.err
    )


def test_features_without_a_direction_are_an_error_or_skipped(
    task: Path, embedded: dict[str, Path], tmp_path: Path, sfplus: Callable
) -> None:
    with np.load(embedded["one"]) as file:
        names, features = file["names"], file["features"].copy()
    features[[1, 4]] = [[0.0], [np.nan]]
    np.savez(tmp_path / "bad.npz", names=names, features=features)
    words = ("verify", "--features", tmp_path / "bad.npz", "--pairs", task / "pairs.txt", "--out", tmp_path / "out")
    answer = sfplus(*words)
    assert answer.code == 1 and "photos are zero or hold NaN or infinity: person_00" in answer.err
    assert answer.err.count("\n") == 1
    answer = sfplus(*words, "--undetected", "skip")
    assert answer.code == 0 and "pairs)" in answer.out, answer.err


def test_features_are_reported_in_the_folder_of_their_data_set(
    task: Path, embedded: dict[str, Path], sfplus: Callable
) -> None:
    answer = verify(sfplus, task, "--features", embedded["one"], task / "pairs.txt", "--folds", "3", workspace="w")
    assert answer.code == 0 and len(list((task / "w/runs").glob("*/report.html"))) == 1, answer.err


@pytest.mark.parametrize("label", ["1", "0"])
def test_pairs_of_one_kind_are_refused_before_anything_is_read(
    label: str, task: Path, drawn: Path, tmp_path: Path, sfplus: Callable
) -> None:
    (tmp_path / "pairs.txt").write_text(f"a b {label}\nc d {label}\n")
    for words in ((drawn, tmp_path / "pairs.txt"), ("--features", "nope.npz", "--pairs", tmp_path / "pairs.txt")):
        answer = verify(sfplus, tmp_path, *words)
        assert answer.code == 1 and "pairs.txt: holds only pairs of" in answer.err, answer.err
        assert not (tmp_path / "data").exists()
