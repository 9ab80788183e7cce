"""Detectors and embedders can be sent to other processes, where they give the same bits."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from untrained_models import save_untrained

from sfplus import Detector, Embedder
from sfplus.device import choose_device
from sfplus.errors import DeviceError, UsageError, WeightsError
from sfplus.io.resources import shipped_folder

SETTINGS: list[dict[str, Any]] = [
    {},
    {"min_face": 40, "factor": 0.7, "thresholds": (0.5, 0.6, 0.8), "mirror_landmarks": False},
    {"parity": "matlab"},
    {"parity": "facenet-pytorch", "device": choose_device("cpu")},
    {"precision": "bf16"},
]


@pytest.fixture(scope="module")
def photos(drawn: Path) -> list[Path]:
    return sorted(drawn.glob("*/*.jpg"))[:4]


def arrays(faces: Any) -> list[np.ndarray]:
    return [faces.boxes, faces.scores, faces.landmarks]


@pytest.mark.parametrize("settings", SETTINGS, ids=range(len(SETTINGS)))
def test_a_detector_keeps_its_settings(settings: dict[str, Any], photos: list[Path]) -> None:
    detector = Detector(**{"device": "cpu", **settings})
    expected = arrays(detector.detect(photos[0]))
    data = pickle.dumps(detector)
    assert len(data) < 1000  # the weights come from facenet-pytorch
    for again in (pickle.loads(data), copy.deepcopy(detector)):
        assert all(map(np.array_equal, arrays(again.detect(photos[0])), expected))
        assert pickle.dumps(again) == data


def test_settings_that_were_changed_later_are_kept(photos: list[Path]) -> None:
    detector = Detector(device="cpu")
    detector.thresholds = (0.6, 0.7, 1.0)
    assert not len(pickle.loads(pickle.dumps(detector)).detect(photos[0]))


@pytest.mark.parametrize("maker", [Detector, Embedder])
def test_the_device_is_chosen_where_the_pickle_is_loaded(maker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` is chosen again; a device that was asked for by its name must exist."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    original = maker(device="auto")
    pickle.loads(pickle.dumps(original))
    original._settings["device"] = "cuda:0"  # as if it came from a machine with a GPU
    with pytest.raises(DeviceError, match="'cuda:0' does not exist, this machine has no GPU"):
        pickle.loads(pickle.dumps(original))


@pytest.mark.slow
def test_an_embedder_keeps_its_model_and_settings(untrained_model: Path, photos: list[Path]) -> None:
    for settings in ({}, {"dtype": "bfloat16"}, {"input": "sphereface,mirror=false"}, {"choose": "largest"}):
        embedder = Embedder(untrained_model, "cpu", **settings)  # type: ignore[arg-type]
        embedder.similarity(*photos[:2])
        data = pickle.dumps(embedder)
        assert len(data) < 1000
        for again in (pickle.loads(data), copy.deepcopy(embedder)):
            np.testing.assert_array_equal(again(photos[:2]), embedder(photos[:2]))
            assert again._choose == embedder._choose and pickle.dumps(again) == data


def test_a_model_is_named_by_its_absolute_path_or_its_name(
    untrained_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(untrained_model.parent)
    data = pickle.dumps(Embedder("model", "cpu"))
    monkeypatch.chdir("/")
    assert pickle.loads(data).folder == untrained_model
    shipped = pickle.loads(pickle.dumps(Embedder(device="cpu")))
    assert shipped.folder == shipped_folder("pretrained") / "sphereface10-distilled"
    assert shipped._model["name"] == "sphereface10-distilled"


def test_a_model_that_has_changed_or_gone_is_refused(untrained_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(untrained_model, folder)
    data = pickle.dumps(Embedder(folder, "cpu"))
    save_untrained(folder, seed=1)
    with pytest.raises(WeightsError, match=r"model: is not the model of this pickle, it has changed; create"):
        pickle.loads(data)
    shutil.rmtree(folder)
    with pytest.raises(UsageError, match="there is no model"):
        pickle.loads(data)


class Photos(Dataset[Any]):
    """Features of photos, computed in the workers of a data loader."""

    def __init__(self, paths: list[Path], detector: Detector, embedder: Embedder) -> None:
        self.paths, self.detector, self.embedder = paths, detector, embedder

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray, np.ndarray]:
        path = self.paths[index]
        return os.getpid(), self.detector.detect(path).boxes[0], self.embedder(path)


@pytest.mark.slow
def test_workers_of_a_data_loader_give_the_same_bits(untrained_model: Path, photos: list[Path]) -> None:
    detector, embedder = Detector(device="cpu"), Embedder(untrained_model, "cpu")
    loader = DataLoader(
        Photos(photos, detector, embedder), batch_size=2, num_workers=2, multiprocessing_context="spawn"
    )
    processes, boxes, features = (torch.cat(column).numpy() for column in zip(*loader, strict=True))
    assert len(set(processes)) == 2 and os.getpid() not in processes
    np.testing.assert_array_equal(boxes, [faces.boxes[0] for faces in detector.detect(photos)])
    np.testing.assert_array_equal(features, [embedder(photo) for photo in photos])


@pytest.mark.slow
def test_spawned_pools_give_the_same_bits(untrained_model: Path, photos: list[Path]) -> None:
    detector, embedder = Detector(device="cpu"), Embedder(untrained_model, "cpu")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        faces = pool.map(detector.detect, photos)
        features = pool.map(embedder, photos)
        embedded = pool.map(embedder.faces, photos)
    for result, expected in zip(faces, detector.detect(photos), strict=True):
        assert all(map(np.array_equal, arrays(result), arrays(expected)))
    np.testing.assert_array_equal(features, [embedder(photo) for photo in photos])
    np.testing.assert_array_equal([result.features[0] for result in embedded], features)
