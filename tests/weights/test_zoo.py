"""The zoo file, and fetching of models from a local server or a file."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
import yaml
from local_server import Server, serve

from sfplus import Embedder
from sfplus.errors import WeightsError
from sfplus.io.resources import shipped_folder, shipped_models
from sfplus.networks import create
from sfplus.weights import zoo
from sfplus.weights.convert import convert
from sfplus.weights.detector_models import read_detector
from sfplus.weights.find_model import find_model
from sfplus.weights.loading import load_model
from sfplus.weights.model_folder import to_bytes

NEW = "sphereface20"  # by hand, SHA-256 unknown
HTML = b"<!DOCTYPE html><html>Google Drive - Virus scan warning</html>"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SFPLUS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a narrow SphereFace-20 as a Caffe file."""
    folder = tmp_path_factory.mktemp("caffe")
    torch.manual_seed(0)
    network = create("sphereface20", feature_size=16, width=0.125)
    (folder / "model.safetensors").write_bytes(to_bytes(network.state_dict()))
    shape = {"network": "sphereface20", "feature_size": 16, "width": 0.125, "template": "sphereface-112x96"}
    (folder / "config.json").write_text(json.dumps(shape))
    convert(folder, folder / "narrow.caffemodel")
    return folder / "narrow.caffemodel"


@pytest.fixture
def edit(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that changes an entry of the zoo for one test."""

    def change(name: str, **values: object) -> None:
        monkeypatch.setattr(zoo, "zoo", lambda: {**entries, name: entries[name].model_copy(update=values)})

    entries = zoo.zoo()
    return change


def test_published_accuracies_and_their_means() -> None:
    """Compare with the READMEs of sphereface and sphereface-plus; the means were computed from these."""
    means = {name: mean(entry.runs) for name, entry in zoo.zoo().items() if len(entry.runs) > 1}
    assert means == pytest.approx({
        "sphereface20": 99.228, "sphereface-plus-m1": 97.398, "sphereface-plus-m2": 98.982,
        "sphereface-plus-m3": 99.028, "sphereface-plus-m4": 99.267,
    }, abs=6e-4)  # fmt: skip
    starts = [zoo.zoo()[f"sphereface20-m{m}"].lfw for m in (1, 2, 3, 4)]
    released = [zoo.zoo()[f"sphereface-plus-m{m}"].lfw for m in (1, 2, 3, 4)]
    assert starts == [96.22, 98.87, 98.93, 99.27] and released == [97.48, 99.05, 99.08, 99.35]


def test_shipped_models_agree_with_their_entries() -> None:
    shipped = {name: entry for name, entry in zoo.zoo().items() if entry.layout == "sfplus"}
    assert sorted(shipped) == shipped_models()
    for name, entry in shipped.items():
        folder = shipped_folder("pretrained") / name
        assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()} == entry.files
        config = load_model(folder)[1]
        assert config["network"] == entry.network and config["template"] == entry.template
        assert round(100 * config["verification"]["accuracy"], 2) == entry.lfw


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha": "0" * 64}, "sphereface20.sha: Extra inputs are not permitted"),
        ({"files": {"a.caffemodel": "abc"}}, "files.a.caffemodel: String should match"),
        ({"files": {"../a": "0" * 64}}, "String should match"),
        ({"lfw": 99.0}, "lfw is not one of runs"),
        ({"url": "http://example.org/sphereface_model.caffemodel"}, "sphereface20.url: String should match"),
        ({"url": "https://example.org/other"}, "url does not end with the last of files"),
        ({"licence": None}, "sphereface20.licence"),
        (
            {"layout": "pickle"},
            "Input should be 'sfplus', .*, 'onnx', 'state dict' or 'detector'",
        ),
        ({"input": "insightface"}, "input is for layouts onnx and state dict"),
        ({"layout": "onnx"}, "input is for layouts onnx and state dict"),
        ({"layout": "onnx", "input": "insihtface"}, "did you mean 'insightface'"),
        ({"network": ""}, "network is missing"),
        ({"layout": "detector"}, "a detector has a SHA-256, and no network, input, lfw and runs"),
    ],
)
def test_an_invalid_zoo_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    content = yaml.safe_load((shipped_folder("pretrained") / zoo.ZOO).read_text("utf-8"))
    content["sphereface20"] |= change
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(WeightsError, match=message):
        zoo.load_zoo(tmp_path / "zoo.yaml")


def test_addresses_are_of_releases_or_of_a_commit() -> None:
    """The file behind an address does not change, and is checked where its SHA-256 is known."""
    for name, entry in zoo.zoo().items():
        if entry.url:
            assert re.search(r"/releases/download/|/[0-9a-f]{40}/", entry.url), name
            assert entry.layout != "onnx" or zoo.UNKNOWN not in entry.files.values(), name


def test_list_and_info_print_the_entries(sfplus: Callable) -> None:
    lines = sfplus("models", "list").out.splitlines()
    assert len(lines) == len(zoo.zoo()) and lines[0].startswith("sphereface10-distilled shipped      98.00 % *")
    assert [line.split()[0] for line in lines[1:3]] == ["sphereface20-yakhyo", "sphereface36-yakhyo"]
    info = sfplus("models", "info", "sphereface-plus-m4").out
    assert "99.35 %, mean of 10 runs 99.27 % (sphereface protocol)" in info and "drive.google.com" in info
    assert "SHA-256 unknown until first fetched" in info and "MIT" in info


def test_a_detector_is_fetched_as_it_is_and_is_no_model(edit: Callable, sfplus: Callable, home: Path) -> None:
    content = b"a graph"
    with serve() as server:
        url = server.put("/yunet.onnx", content)
        edit("yunet", url=url, files={"yunet.onnx": hashlib.sha256(content).hexdigest()})
        answer = sfplus("models", "fetch", "yunet")
        assert answer.code == 0 and "use it with --detector yunet" in answer.out, answer.err
        assert read_detector("yunet") == content and zoo.status("yunet") == "fetched"
        (home / "yunet" / "model.onnx").write_bytes(b"another graph")
        with pytest.raises(WeightsError, match="get it again: sfplus models fetch yunet"):
            read_detector("yunet")
        assert "was damaged and is replaced" in sfplus("models", "fetch", "yunet").out
        assert read_detector("yunet") == content
        (home / "pins.json").unlink(missing_ok=True)
        for damaged in (b"another graph", b""):  # nothing but the zoo knows the file
            (home / "yunet" / "model.onnx").write_bytes(damaged)
            assert "was damaged and is replaced" in sfplus("models", "fetch", "yunet").out
            assert read_detector("yunet") == content
        assert "yunet is fetched" in sfplus("models", "fetch", "yunet").out
    info = sfplus("models", "info", "yunet").out
    assert "LFW" not in info and "crops" not in info and "layout    detector" in info
    with pytest.raises(Exception, match="use --detector yunet"):
        find_model("yunet")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["info", "sphereface-20"], 2, "did you mean 'sphereface20'?"),
        (["fetch", "qqqqqq"], 2, "see: sfplus models list"),
        (["fetch", "sphereface64"], 2, "its weights are not released"),
        (["fetch", NEW], 1, "then: sfplus models fetch sphereface20 --from FILE"),
        (["fetch", "sphereface10-distilled"], 0, "use it with --model sphereface10-distilled"),
        (["fetch", NEW, "--from", "gone.caffemodel"], 2, "there is no such file"),
        (["verify", "gone"], 2, "there is no such file"),
        (["verify", shipped_folder("pretrained") / "sphereface10-distilled"], 0, "as it should be"),
        (["verify", shipped_folder("pretrained") / "README.md"], 2, "no model of the zoo has its SHA-256"),
        (["verify", shipped_folder("pretrained") / "README.md", "--name", NEW], 2, "is not a .caffemodel file"),
    ],
)
def test_results_and_remedies(words: list[object], code: int, message: str, sfplus: Callable, home: Path) -> None:
    answer = sfplus("models", *words)
    assert answer.code == code and message in answer.out + answer.err and not home.exists()


def test_a_file_from_disk_is_checked_pinned_converted_and_used(
    weights: Path, tmp_path: Path, home: Path, sfplus: Callable
) -> None:
    with pytest.raises(Exception, match="get it first: sfplus models fetch sphereface20"):
        find_model(NEW)
    answer = sfplus("models", "fetch", NEW, "--from", weights)
    assert answer.code == 0 and "is pinned" in answer.out and "use it with --model sphereface20" in answer.out
    assert find_model(NEW) == home / NEW and zoo.status(NEW) == "fetched"
    config = load_model(home / NEW)[1]
    assert config["published"]["lfw"] == 99.3 and config["licence"].startswith("MIT")
    assert config["provenance"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 96, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Embedder(NEW, "cpu").features(crops), Embedder(weights.parent, "cpu").features(crops))
    assert "as it should be" in sfplus("models", "verify", weights).out  # the SHA-256 identifies the entry
    assert [path.name for path in home.glob(".*")] == [zoo.LOCKS]

    model = home / NEW / "model.safetensors"
    sound = model.read_bytes()
    for data, pins in ((sound[:-1] + b"\x7f", True), (sound[:-9], True), (b"", True), (sound[:-9], False)):
        model.write_bytes(data)  # damaged; without its digest among the pins, as in earlier versions
        if not pins:
            (home / zoo.PINS).unlink()
        answer = sfplus("models", "fetch", NEW)
        assert answer.code == 1 and f"{home / NEW} is damaged\n{NEW} can only be downloaded by hand" in answer.out
        answer = sfplus("models", "fetch", NEW, "--from", weights)
        assert answer.code == 0 and f"{home / NEW} was damaged and is replaced\n" in answer.out
        assert model.read_bytes() == sound and f"{NEW} is fetched: use it" in sfplus("models", "fetch", NEW).out

    changed = tmp_path / "sphereface_model.caffemodel"
    changed.write_bytes(weights.read_bytes() + b"\0")
    answer = sfplus("models", "verify", changed)
    assert answer.code == 1 and "do not use it; get the file again" in answer.err


@pytest.mark.parametrize(
    ("content", "message"),
    [(HTML, "is a web page, not the file"), (b"", ""), (b"PK\3\4 not a model", ""), (None, "")],
)
def test_files_that_are_not_models_are_not_pinned(
    weights: Path, tmp_path: Path, content: bytes | None, message: str, sfplus: Callable, home: Path
) -> None:
    file = tmp_path / "sphereface_model.caffemodel"
    file.write_bytes(weights.read_bytes()[:-1000] if content is None else content)
    for words in (["verify", file], ["fetch", NEW, "--from", file]):
        answer = sfplus("models", *words)
        assert answer.code == 1 and message in answer.err and "Traceback" not in answer.err
    assert not home.exists()


def test_a_different_network_than_in_the_entry_is_refused(weights: Path, sfplus: Callable, edit: Callable) -> None:
    edit(NEW, network="sphereface36")
    answer = sfplus("models", "fetch", NEW, "--from", weights)
    assert answer.code == 1 and "conv" in answer.err and "is missing" in answer.err


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    """An ONNX graph of another project: RGB over 127.5, 112x112, without a mirror image."""
    onnx = pytest.importorskip("onnx")
    generator = np.random.default_rng(0)
    weights = [onnx.numpy_helper.from_array(generator.normal(size=(3, 5)).astype(np.float32), "w")]
    nodes = [
        onnx.helper.make_node("GlobalMaxPool", ["data"], ["pooled"]),
        onnx.helper.make_node("Flatten", ["pooled"], ["flat"]),
        onnx.helper.make_node("MatMul", ["flat", "w"], ["fc1"]),
    ]
    kind = onnx.TensorProto.FLOAT
    data = onnx.helper.make_tensor_value_info("data", kind, ["N", 3, 112, 112])
    features = onnx.helper.make_tensor_value_info("fc1", kind, ["N", 5])
    graph = onnx.helper.make_graph(nodes, "g", [data], [features], weights)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8),
              tmp_path / "face_recognition_sface_2021dec.onnx")  # fmt: skip
    return tmp_path / "face_recognition_sface_2021dec.onnx"


def test_an_onnx_model_is_fetched_with_its_input(onnx_file: Path, edit: Callable, sfplus: Callable, home: Path) -> None:
    sha256 = hashlib.sha256(onnx_file.read_bytes()).hexdigest()
    with serve() as server:
        url = server.put(f"/{onnx_file.name}", onnx_file.read_bytes())
        edit("sface", url=url, files={onnx_file.name: sha256}, input="insightface")
        answer = sfplus("models", "fetch", "sface")
    assert answer.code == 0 and "use it with --model sface" in answer.out, answer.err
    config = json.loads((home / "sface" / "config.json").read_text())
    assert config["template"] == "arcface-112x112" and config["preprocessing"]["channels"] == "rgb"
    assert config["licence"] == "Apache-2.0" and config["published"]["lfw"] == 99.4
    assert config["provenance"]["sha256"] == sha256 and zoo.status("sface") == "fetched"
    crops = np.random.default_rng(1).integers(0, 256, (4, 112, 112, 3), dtype=np.uint8)
    embedder = Embedder("sface", "cpu")
    expected = Embedder(onnx_file, "cpu", input="insightface").features(crops)
    assert expected.shape == (4, 5)
    np.testing.assert_array_equal(embedder.features(crops), expected)


@pytest.mark.slow  # exports the network to ONNX
def test_a_state_dict_is_fetched_with_the_network_of_a_function(
    tmp_path: Path, edit: Callable, sfplus: Callable, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zoo_network.py").write_text(
        "from torch import nn\n\ndef create():\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 5))\n"
    )
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    state = {"2.weight": torch.randn(5, 12), "2.bias": torch.randn(5)}
    file = tmp_path / "20180402-114759-vggface2.pt"
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    edit("facenet-vggface2", files={file.name: sha256}, network="zoo_network:create")
    answer = sfplus("models", "fetch", "facenet-vggface2", "--from", file)
    assert answer.code == 0, answer.err
    crops = np.random.default_rng(1).integers(0, 256, (4, 160, 160, 3), dtype=np.uint8)
    x = (torch.from_numpy(crops).permute(0, 3, 1, 2).float() - 127.5) / 128
    expected = torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1) @ state["2.weight"].T + state["2.bias"]
    actual = Embedder("facenet-vggface2", "cpu").features(crops)
    np.testing.assert_allclose(actual, expected.numpy(), atol=1e-5)


@pytest.fixture
def host(weights: Path, edit: Callable) -> Iterator[Server]:
    with serve() as server:
        edit(NEW, url=server.put("/sphereface_model.caffemodel", weights.read_bytes()))
        yield server


def test_a_download_is_pinned_and_a_different_file_is_then_refused(
    host: Server, weights: Path, home: Path, sfplus: Callable
) -> None:
    answer = sfplus("models", "fetch", NEW)
    assert answer.code == 0 and "use it with --model sphereface20" in answer.out
    pins = json.loads((home / zoo.PINS).read_text())
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert pins[NEW].keys() == {"sphereface_model.caffemodel", "fetched"}
    assert pins[NEW]["sphereface_model.caffemodel"] == sha256
    assert f"SHA-256 {sha256}" in sfplus("models", "info", NEW).out
    assert sfplus("models", "fetch", NEW).code == 0 and len(host.requests) == 1

    for path in (home / NEW, home / "downloads"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    host.put("/sphereface_model.caffemodel", weights.read_bytes() + b"\0")
    answer = sfplus("models", "fetch", NEW)
    assert answer.code == 1 and "its SHA-256 differs" in answer.err and not (home / NEW).exists()


def test_several_fetches_at_once_download_once_and_agree(host: Server, home: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: zoo.fetch(NEW), range(4)))
    assert all(ready for _, ready in answers) and len(host.requests) == 1
    assert sum("is fetched: use it" in text for text, _ in answers) == 3
    assert load_model(home / NEW)[1]["network"] == "sphereface20"
    assert not list(home.rglob("*.part"))


def test_files_that_are_pinned_at_once_are_all_pinned(home: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: zoo._pin(f"m{number}", "x", "0" * 64), range(32)))
    assert len(json.loads((home / zoo.PINS).read_text())) == 32


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ({"body": HTML}, "a web page, not the file; open the address in a browser"),
        ({"body": b"gone", "status": 404}, "without a network: sfplus models fetch sphereface20 --from FILE"),
        ({"body": b"\x0a\x05", "length": 99}, "cannot be downloaded"),
        ({"body": b"\x0a\x05abc"}, "sphereface_model.caffemodel"),
    ],
)
def test_failed_downloads(
    host: Server, response: dict[str, object], message: str, sfplus: Callable, home: Path
) -> None:
    host.put("/sphereface_model.caffemodel", **response)  # type: ignore[arg-type]
    answer = sfplus("models", "fetch", NEW)
    assert answer.code == 1 and message in answer.err and not (home / NEW).exists() and not (home / zoo.PINS).exists()


def test_an_archive_has_to_be_unpacked_by_hand(edit: Callable, sfplus: Callable, home: Path) -> None:
    name = "sphereface20-clcarwin"
    with serve() as server:
        edit(name, url=server.put("/sphere20a_20171020.7z", b"7z\xbc\xaf\x27\x1c..."))
        answer = sfplus("models", "fetch", name)
        archive = home / "downloads" / "sphere20a_20171020.7z"
        assert archive.read_bytes().startswith(b"7z")
        archive.unlink()
        edit(name, url=server.put("/sphere20a_20171020.7z", b"PK\3\4"))
        assert "its SHA-256 differs" in sfplus("models", "fetch", name).err
        (home / zoo.PINS).unlink()
        assert "is not a 7z archive" in sfplus("models", "fetch", name).err
    assert answer.code == 1 and "unpack it" in answer.out and "--from FILE" in answer.out


def test_damaged_pins_are_refused(home: Path, sfplus: Callable) -> None:
    home.mkdir()
    (home / zoo.PINS).write_text("[]")
    answer = sfplus("models", "info", NEW)
    assert answer.code == 1 and "pins.json: is damaged (Input should be a valid dictionary); delete it" in answer.err
