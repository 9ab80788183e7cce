"""The Hugging Face Hub: folders, model cards, uploads, and downloads by its client from a local server."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from local_server import Server, serve
from markdown_it import MarkdownIt
from safetensors.numpy import load_file, save_file

from sfplus import Embedder
from sfplus.errors import SfplusError
from sfplus.io.resources import shipped_folder
from sfplus.weights import hub
from sfplus.weights.find_model import find_model
from sfplus.weights.hub import PretrainedModel
from sfplus.weights.loading import load_model

SMALL = shipped_folder("pretrained") / "sphereface10-distilled"
COMMIT = "c0ffee" * 6 + "c0ff"


class Hub:
    """A local server that answers the three requests of the Hub's client."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def put(self, repository: str, files: dict[str, bytes], revision: str = "main") -> None:
        names = [{"rfilename": name} for name in files]
        info = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": names, "private": False}
        json_type = {"Content_Type": "application/json"}
        for reference in (revision, COMMIT):
            self.server.put(f"/api/models/{repository}/revision/{reference}", json.dumps(info).encode(), **json_type)
            tree = [{"type": "file", "path": n, "size": len(b), "oid": "0" * 40} for n, b in files.items()]
            self.server.put(f"/api/models/{repository}/tree/{reference}", json.dumps(tree).encode(), **json_type)
        for name, content in files.items():
            headers = {"ETag": f'"{name}"', "X_Repo_Commit": COMMIT}
            for reference in (revision, COMMIT):
                self.server.put(f"/{repository}/resolve/{reference}/{name}", content, **headers)

    def refuse(self, path: str, status: int, code: str) -> None:
        self.server.put(path, b"{}", status=status, X_Error_Code=code)


@pytest.fixture
def the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    hub.hub_folder.cache_clear()
    with serve() as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
        monkeypatch.setattr(
            huggingface_hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            server.address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield Hub(server)
    hub.hub_folder.cache_clear()


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in SMALL.iterdir()}


def test_a_saved_model_equals_the_original(tmp_path: Path) -> None:
    model = PretrainedModel.from_pretrained(SMALL)
    model.save_pretrained(tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").iterdir()} == {
        "model.safetensors", "config.json", "mean.safetensors", "README.md",
    }  # fmt: skip
    again = PretrainedModel.from_pretrained(str(tmp_path / "again"))
    assert again.config == model.config == json.loads((SMALL / "config.json").read_text())
    for (name, actual), expected in zip(again.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(actual, expected), name
    assert torch.equal(again.mean, model.mean)
    crops = np.random.default_rng(0).integers(0, 256, (2, 112, 96, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        Embedder(tmp_path / "again", "cpu").features(crops), Embedder(SMALL, "cpu").features(crops)
    )
    x = torch.randn(2, 3, 112, 96)
    assert torch.equal(model(x), load_model(SMALL)[0](x))


def test_the_card_states_data_protocol_accuracy_licence_and_use(tmp_path: Path) -> None:
    model = PretrainedModel.from_pretrained(SMALL)
    model.config["licence"] = "research only"
    model.save_pretrained(tmp_path)
    card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "other" and card.data.library_name == "sfplus"
    result = card.data.eval_results[0]
    assert result.metric_value == pytest.approx(0.98, abs=1e-5) and "sphereface protocol" in result.metric_name
    tensors = load_file(SMALL / "model.safetensors")
    numbers = sum(tensor.size for name, tensor in tensors.items() if ".running_" not in name and "num_" not in name)
    for text in (
        "70,509 crops without labels", "98.00 % +- 0.23 on 6000 pairs of pairs.txt (sphereface protocol",
        "| licence | research only |", "## Intended use", "sphereface-112x96", f"{numbers:,} parameters",
        "without their consent",
    ):  # fmt: skip
        assert text in card.text, text
    (tmp_path / "README.md").write_text("mine")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_card_states_what_is_missing_from_the_config() -> None:
    network, config = load_model(SMALL)
    minimal = {key: config[key] for key in ("network", "feature_size", "width")}
    text = str(PretrainedModel(network, minimal).generate_model_card())
    assert "| accuracy | not measured |" in text and "| training data | not stated |" in text
    published = {"lfw": 99.3, "protocol": "sphereface"}
    fetched = minimal | {"published": published, "licence": "MIT", "data": "CASIA-WebFace"}
    text = str(PretrainedModel(network, fetched).generate_model_card())
    assert "99.30 % on LFW as published (sphereface protocol)" in text and "license: mit" in text


@pytest.mark.parametrize(
    "text", ["x\n# heading\n", "<img src=x onerror=alert(1)>", "a | b |\n| c", "[a](javascript:b)", "`a`",
             "---\nlicense: mit", "{network}", "\x1b[2J", "same person\u202e", "**a**"],
)  # fmt: skip
def test_no_text_of_a_config_becomes_markup_of_the_card(text: str) -> None:
    network, config = load_model(SMALL)
    verification = config["verification"] | {"pairs": text, "protocol": text}
    shown = {"licence": text, "data": text, "verification": verification, "teachers": [{"name": text, "licence": text}]}
    card = PretrainedModel(network, config | shown).generate_model_card()
    plain = PretrainedModel(network, config | {"teachers": [{"name": "t"}]}).generate_model_card()
    kinds = []
    for page in (card.text, plain.text):
        tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(page)
        inline = [child.type for token in tokens for child in token.children or () if "text" not in child.type]
        kinds.append([token.type for token in tokens] + inline)
    assert kinds[0] == kinds[1] and "\x1b" not in card.text and "\u202e" not in card.text
    assert card.data.to_dict()["license"] == "other"


def test_a_mean_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    shutil.copytree(SMALL, tmp_path / "m")
    save_file({"mean": np.full(256, np.nan, np.float32)}, tmp_path / "m" / "mean.safetensors")
    with pytest.raises(SfplusError, match="its 'mean' is not a row of finite numbers"):
        PretrainedModel.from_pretrained(tmp_path / "m")


def test_pickles_are_not_downloaded_from_the_hub(
    the_hub: Hub, files: dict[str, bytes], drawn: Path, sfplus: Callable
) -> None:
    the_hub.put("me/small", {**files, "pytorch_model.bin": b"pickle", "run.py": b"evil"})
    folder = find_model("hf:me/small")
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "mean.safetensors"}
    assert not [path for path in the_hub.server.requests if path.endswith((".bin", ".py"))]
    request_count = len(the_hub.server.requests)
    assert find_model("hf:me/small") == folder and len(the_hub.server.requests) == request_count
    assert PretrainedModel.from_pretrained("me/small").config["crops"] == 70509
    first, second = sorted(drawn.glob("*/*.jpg"))[:2]
    answer = sfplus("compare", first, second, "--model", "hf:me/small")
    assert answer.code == 0 and "an accuracy of 98.00 % (sphereface protocol)" in answer.out
    assert str(folder) in sfplus("models", "fetch", "hf:me/small").out


def test_a_revision_is_downloaded(the_hub: Hub, files: dict[str, bytes]) -> None:
    the_hub.put("me/small", files, revision="v1")
    assert load_model(find_model("hf:me/small@v1"))[1]["crops"] == 70509


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_repository_with_a_missing_file_is_refused(the_hub: Hub, files: dict[str, bytes], missing: str) -> None:
    kept = {name: content for name, content in files.items() if name != missing}
    the_hub.put("me/half", {**kept, "pytorch_model.bin": b"pickle"})
    with pytest.raises(SfplusError, match=f"hf:me/half: contains no {missing}; .*pickles are not read"):
        find_model("hf:me/half")


@pytest.mark.parametrize(
    ("name", "status", "error", "message"),
    [
        ("hf:me/none", 404, "RepoNotFound", "the Hub has no such repository; check the name"),
        ("hf:me/small@v9", 404, "RevisionNotFound", "has no such revision"),
        ("hf:me/gated", 403, "GatedRepo", "is gated; ask for access on its page"),
        ("hf:me/broken", 500, "", "cannot be downloaded"),
        ("hf:not/a/name", 0, "", "is not the name of a repository; use hf:owner/name"),
        ("hf:", 0, "", "is not the name of a repository; use hf:owner/name"),
    ],
)
def test_refusals_of_the_hub(
    the_hub: Hub, name: str, status: int, error: str, message: str, sfplus: Callable, tmp_path: Path
) -> None:
    repository, _, revision = name.removeprefix("hf:").partition("@")
    the_hub.refuse(f"/api/models/{repository}/revision/{revision or 'main'}", status, error)
    answer = sfplus("embed", tmp_path, tmp_path.parent / "out", "--model", name)
    assert answer.code in (1, 2) and message in answer.err and "Traceback" not in answer.err


def test_a_cached_model_needs_no_network(
    the_hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    the_hub.put("me/small", files)
    folder = find_model("hf:me/small")
    hub.hub_folder.cache_clear()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    assert find_model("hf:me/small") == folder  # from the cache
    with pytest.raises(SfplusError, match="cannot be downloaded"):
        find_model("hf:me/other")


def test_the_message_names_a_damaged_config(the_hub: Hub, files: dict[str, bytes]) -> None:
    the_hub.put("me/small", {**files, "config.json": b"{}"})
    with pytest.raises(SfplusError, match=r"config.json: is damaged"):
        PretrainedModel.from_pretrained("me/small")


def test_a_pushed_model_can_be_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A replacement of the Hub's API keeps the uploaded files."""

    class Api:
        def __init__(self, token: str | None = None) -> None:
            assert token == "secret"

        def create_repo(self, repo_id: str, **_: object) -> object:
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, repo_id: str, folder_path: Path, **_: object) -> str:
            shutil.copytree(folder_path, tmp_path / repo_id)
            return f"pushed {repo_id}"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    assert PretrainedModel.from_pretrained(SMALL).push_to_hub("me/model", token="secret") == "pushed me/model"
    pushed = PretrainedModel.from_pretrained(tmp_path / "me/model")
    assert pushed.config["verification"]["pairs_sha256"] and (tmp_path / "me/model/README.md").is_file()
