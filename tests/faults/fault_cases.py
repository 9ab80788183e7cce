"""Every command that writes and every stage, on tiny inputs, and what they leave in a folder."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from command_client import CommandServer
from PIL import Image
from untrained_models import save_untrained

from sfplus.datasets.pairs import draw_pairs, write_pairs
from sfplus.datasets.portraits import write_portraits
from sfplus.images import list_photos

SLOW = {"run", "convert to onnx", "report", "verify", "stage report", "sweep"}  # cases that are met once only

RECIPE = """sample: {people: 6, photos: 3, verify_people: 4, folds: 2, pairs_per_fold: 4}
detect: {min_face: 80, factor: 0.6}
train:
  network: sphereface4
  feature_size: 16
  width: 0.125
  head: {m: 2}
  batch_size: 4
  base_lr: 0.02
  steps: []
  max_iter: 6
  checkpoint_every: 2
  log_every: 2
finetune:
  head: {m: 2, iteration: 2000}
  energy: {power: 1}
  batch_size: 4
  base_lr: 0.01
  steps: []
  max_iter: 4
  checkpoint_every: 2
  log_every: 2
  control: false
verify: {protocol: sphereface}
"""
IMAGES = "data: {name: folder, root: images, pad: 0}, batch_size: 4, max_iter: 3, log_every: 1, checkpoint_every: 1"
CLASSIFY = f"classify: {{{IMAGES}, network: cnn6, width: 4, base_lr: 0.01, steps: [], test_every: 1}}\n"
GENERATE = f"generate: {{{IMAGES.replace(', pad: 0', '')}, width: 0.03125, sample_every: 2}}\n"
STAGES = ("sample", "detect", "align", "train", "finetune", "embed", "verify", "report")
ZOO = """tiny:
  what: a model for tests
  network: sphereface4
  layout: sfplus
  files: {model.safetensors: unknown until first fetched}
  pages: [http://localhost/]
  licence: none
  data: none
  lfw: 90
  runs: [90]
  source: tests
"""


def write_material(folder: Path, server: CommandServer) -> None:
    """Write the inputs of all cases: photos, recipes, a model, a collection, a run of the recipe."""
    write_portraits(folder / "photos", 4, 2, 0)
    write_pairs(folder / "pairs.txt", draw_pairs(list_photos(folder / "photos"), 2, 2, 0))
    save_untrained(folder / "model")
    for name, text in (("r", RECIPE), ("classify", CLASSIFY), ("generate", GENERATE)):
        (folder / f"{name}.yaml").write_text(text)
    distilled = RECIPE.partition("finetune:")[0].replace("train:", "train:\n  teacher: {model: model}")
    (folder / "distilled.yaml").write_text(distilled)
    (folder / "identify.yaml").write_text("embed: {model: model}\nidentify: {photos: crops, crops: true}\n")
    (folder / "zoo.yaml").write_text(ZOO)
    rng = np.random.default_rng(0)
    for name in ("train/dark", "train/light", "test/dark", "test/light"):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{number}.png")
    for root, width in (("crops", 96), ("wide", 112)):
        for person in range(3):
            (folder / root / f"{person}").mkdir(parents=True)
            for number in range(6 if root == "crops" else 2):  # three parts of `embed`
                pixels = rng.integers(0, 255, (112, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / root / f"{person}/{number}.png")
    wide = [path.read_bytes() for path in sorted(folder.glob("wide/*/*"))]
    (folder / "set.bin").write_bytes(pickle.dumps((wide[:4], [True, False])))
    with tarfile.open(folder / "lfw.tgz", "w:gz") as tar:
        tar.add(folder / "photos", "lfw")
    for words in (
        ("run", "r.yaml"), ("run", "distilled.yaml", "--until", "train"), ("run", "identify.yaml"),
        ("group", "photos", "people", "--model", "model"), ("embed", "photos", "features", "--model", "model"),
    ):  # fmt: skip
        answer = server.run(folder, *words)
        assert answer.code == 0, answer.err
    shutil.rmtree(folder / "home")


@dataclass(frozen=True)
class Case:
    """A command that writes.

    Attributes:
        name: name of the case.
        words: command line.
        needs: files and folders of the material that the command reads.
        forget: patterns of what is deleted from them, so that the command makes it again.
        cached: pattern of what the comparison leaves out, because it depends on the moment of the kill.
        patches: attributes that are set in the process of the command, by `module:name`.
    """

    name: str
    words: tuple[str, ...]
    needs: tuple[str, ...] = ()
    forget: tuple[str, ...] = ()
    cached: str = ""
    patches: dict[str, Any] = field(default_factory=dict)

    def prepare(self, material: Path, folder: Path) -> None:
        """Create a folder with the inputs."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.needs:
            source = material / name
            copy: Callable[..., Any] = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, folder / name)
        for pattern in self.forget:
            for path in list(folder.glob(pattern)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def stage_case(stage: str, recipe: str = "r", needs: tuple[str, ...] = ()) -> Case:
    """Return the case that runs one stage of a recipe; the stages before it are in the cache."""
    later = STAGES[STAGES.index(stage) :] if stage in STAGES else (stage, "train")
    forget = (*(f"data/cache/{name}" for name in later), "data/runs", "data/cache/index")
    words = ("run", f"{recipe}.yaml", "--until", "train" if stage == "teach" else stage, "--device", "cpu")
    return Case(f"stage {stage}", words, (f"{recipe}.yaml", "data", *needs), forget)


def cases(material: Path, address: str) -> dict[str, Case]:
    """Return all cases by name.

    Args:
        material: folder of the inputs.
        address: address of a server with the Hub's `me/tiny` and the files of LFW.
    """
    photos, model = ("photos",), ("--model", "model", "--device", "cpu")
    people, least = ("photos", "people", "model"), ("--min-face", "80", "--device", "cpu")
    archive, pairs = (material / name for name in ("lfw.tgz", "pairs.txt"))
    constants, lfw = "huggingface_hub.constants", "sfplus.datasets.lfw"
    hub = {
        f"{constants}:HF_HUB_DISABLE_XET": True, f"{constants}:ENDPOINT": address, f"{constants}:HF_HUB_CACHE": "hub",
        f"{constants}:HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
    }  # fmt: skip
    downloads = {
        f"{lfw}:_ARCHIVE": (f"{address}/{archive.name}", _digest(archive)),
        f"{lfw}:_PAIRS": (f"{address}/{pairs.name}", _digest(pairs)),
    }
    rows = [
        *(stage_case(stage) for stage in STAGES),
        stage_case("teach", "distilled", ("model",)),
        stage_case("identify", "identify", ("crops", "model")),
        Case("run", ("run", "r.yaml", "--device", "cpu"), ("r.yaml",)),
        Case("classify", ("run", "classify.yaml", "--device", "cpu"), ("classify.yaml", "images")),
        Case("generate", ("run", "generate.yaml", "--device", "cpu"), ("generate.yaml", "images")),
        Case("align", ("align", "photos", "out", *least, "--report"), photos),
        Case("align all", ("align", "photos", "out", *least, "--choose", "all", "--format", "png"), photos),
        Case("detect", ("detect", "photos", "out", *least), photos),
        Case("embed", ("embed", "photos", "out", *model), ("photos", "model")),
        Case("embed crops", ("embed", "crops", "out", "--crops", *model), ("crops", "model"),
             patches={"sfplus.stages.embed:BATCHES": 1}),
        Case("group", ("group", "photos", "out", *model), ("photos", "model")),
        Case("group again", ("group", "photos", "people", *model, "--threshold", "0.9"), people),
        Case("find", ("find", "photos/person_000", "people", "--out", "found", *model), people),
        Case("pack", ("pack", "crops", "out"), ("crops",)),
        Case("pack narrow", ("pack", "wide", "out", "--narrow"), ("wide",)),
        Case("unpack", ("unpack", "set.bin", "out"), ("set.bin",)),
        Case("unpack narrow", ("unpack", "set.bin", "out", "--narrow"), ("set.bin",)),
        Case("convert", ("convert", "model", "out"), ("model",)),
        Case("convert to caffe", ("convert", "model", "out.caffemodel"), ("model",)),
        Case("convert to onnx", ("convert", "model", "out.onnx"), ("model",)),
        Case("export", ("export", "r.yaml", "out", "--device", "cpu"), ("r.yaml", "data")),
        Case("calibrate", ("calibrate", "model", "photos", "pairs.txt", "--device", "cpu"),
             ("model", "photos", "pairs.txt", "data"), cached="data/**"),  # the model is another one with its threshold
        Case("calibrate a copy", ("calibrate", "model", "photos", "pairs.txt", "--out", "out", "--device", "cpu"),
             ("model", "photos", "pairs.txt", "data")),
        Case("report", ("report", "r", "--out", "out"), ("data",)),
        Case("verify", ("verify", "photos", "pairs.txt", *model), ("photos", "pairs.txt", "model")),
        Case("verify features", ("verify", "--features", "features/features.safetensors", "--pairs", "pairs.txt"),
             ("features", "pairs.txt")),
        Case("sweep", ("sweep", "r.yaml", "finetune.energy.weight=0,1", "--device", "cpu"), ("r.yaml", "data"),
             ("data/cache/finetune", "data/cache/verify", "data/runs")),
        Case("recipes copy", ("recipes", "copy", "demo", "mine.yaml")),
        Case("sample", ("sample", "out", "--people", "2", "--photos", "2")),
        Case("overlap", ("overlap", "crops", "crops", "--crops", *model, "--out", "out.txt", "--sheet", "out.png"),
             ("crops", "model")),
        Case("energy", ("energy", "model", "--out", "out.png"), ("model",)),
        Case("compare", ("compare", "photos/person_000/person_000_0001.jpg", "photos/person_001/person_001_0001.jpg",
                         *model, "--out", "out"), ("photos", "model")),
        Case("models fetch", ("models", "fetch", "tiny", "--from", "model/model.safetensors"), ("model", "zoo.yaml"),
             patches={"sfplus.weights.zoo:ZOO": str(material / "zoo.yaml")}),
        Case("models fetch from the Hub", ("models", "fetch", "hf:me/tiny"), patches=hub),
        Case("lfw", ("lfw", "out"), patches=downloads),
    ]  # fmt: skip
    return {case.name: case for case in rows}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


_TIMES = ("timings.jsonl", "files.json")
_UNSTABLE = re.compile(r"\b(seconds|digest|started|created|stages|versions|tensorboard|\w+_per_second)\b")


def is_one_line(err: str) -> bool:
    """Return whether a command ended with one line of sfplus."""
    errors = [line for line in err.splitlines() if line.startswith("sfplus: ")]
    return len(errors) == 1 and err.splitlines()[-1:] == errors and "Traceback" not in err


def tree(folder: Path) -> dict[str, str]:
    """Return what a command left in a folder: a digest of each file without dates and durations; "" for a folder."""
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")))
    return {_name(path): _content(folder / path) for path in paths if not _is_cache(path)}


def _is_cache(path: Path) -> bool:
    """Return whether a file is a lock, or is kept by another library or for speed alone."""
    if path.parts[0] == "hub":
        return "snapshots" not in path.parts
    return path.suffix == ".lock" or path.name == ".ses" or "/cache/index" in f"/{path.as_posix()}"  # onnxruntime: .ses


def _name(path: Path) -> str:
    return re.sub(r"events\.out\.tfevents\..*", "events", path.as_posix())


def _content(path: Path) -> str:
    if path.is_dir():
        return "folder"
    if path.suffix in (".sqlite", ".html", ".md") or "tfevents" in path.name or path.name in _TIMES:
        return "a file"
    data = path.read_bytes()
    if path.suffix == ".json":
        data = json.dumps(_without_times(json.loads(data)), sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if not _UNSTABLE.fullmatch(key)}
    return [_without_times(item) for item in value] if isinstance(value, list) else value
