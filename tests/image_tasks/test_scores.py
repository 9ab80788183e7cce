from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from hostile_files import WRONG_VALUES, damaged, read_or_refuse
from slow_cases import mostly_slow
from torch import nn

from sfplus.device import choose_device
from sfplus.errors import WeightsError
from sfplus.image_tasks.cnn import create_classifier
from sfplus.image_tasks.datasets import SmallImages
from sfplus.image_tasks.scores import (
    diversity_score,
    inception_scores,
    load_classifier,
    load_inception,
    surrogate_scores,
)
from sfplus.weights.model_folder import to_bytes

CPU = choose_device("cpu")


def test_diversity_score_of_certain_and_of_equal_predictions() -> None:
    certain = 100 * torch.eye(10).repeat(20, 1)
    assert diversity_score(certain, 1)[0] == pytest.approx(10)
    assert diversity_score(certain, 10) == pytest.approx((10, 0))
    assert diversity_score(torch.randn(1, 10).repeat(50, 1)) == pytest.approx((1, 0), abs=1e-9)
    assert diversity_score(certain[:200].sort(0, descending=True)[0], 2)[0] == pytest.approx(1)
    with pytest.raises(ValueError, match="3 images cannot be divided into 10 parts"):
        diversity_score(certain[:3])


@pytest.mark.slow
def test_diversity_score_matches_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = pytest.importorskip("torchmetrics.image.inception").InceptionScore(nn.Identity(), splits=5)
    monkeypatch.setattr(torch, "randperm", torch.arange)  # the metric shuffles first
    logits = 3 * torch.randn(200, 12)
    metric.update(logits)
    mean, deviation = metric.compute()
    ours = diversity_score(logits, 5)
    assert ours[0] == pytest.approx(mean.item(), rel=1e-5)
    assert ours[1] * math.sqrt(5 / 4) == pytest.approx(deviation.item(), rel=1e-4)


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """Return a folder like those of the stage classify, with an untrained classifier."""
    torch.manual_seed(0)
    options = {"width": 2, "channels": 3, "size": 32, "bn_momentum": 0.1}
    network = create_classifier("cnn6", 4, **options)  # type: ignore[arg-type]
    for _ in range(60):
        network(torch.randn(16, 3, 32, 32))  # changes the moving averages
    config = {"classifier": "cnn6", "classes": list("abcd"), **options}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(to_bytes(network.state_dict()))
    return tmp_path


def test_surrogate_scores_match_their_definition(classifier: Path) -> None:
    images = torch.randint(0, 256, (230, 32, 32, 3), dtype=torch.uint8)
    network, _ = load_classifier(classifier)
    with torch.no_grad():
        logits = network((images.permute(0, 3, 1, 2).float() - 127.5) / 128)
    labels = logits.argmax(1)
    labels[:23] = (labels[:23] + 1) % 4
    scores = surrogate_scores(images, SmallImages(images, labels, tuple("abcd")), classifier, CPU, splits=1)
    assert scores["surrogate_accuracy"] == pytest.approx(0.9)
    p = logits.double().softmax(1)
    expected = math.exp(torch.special.entr(p.mean(0)).sum() - torch.special.entr(p).sum(1).mean())
    assert scores["surrogate_score"] == pytest.approx(expected, rel=1e-6)
    assert scores["surrogate_score_real"] == pytest.approx(expected, rel=1e-6)
    assert scores["surrogate_score_std"] == 0


def test_scores_of_a_dataset_sorted_by_class(classifier: Path) -> None:
    images = torch.cat([torch.full((50, 32, 32, 3), shade, dtype=torch.uint8) for shade in (0, 80, 160, 255)])
    real = SmallImages(images, torch.arange(4).repeat_interleave(50), tuple("abcd"))
    scores = surrogate_scores(images, real, classifier, CPU, splits=4)
    assert scores["surrogate_score"] == pytest.approx(1) and scores["surrogate_score_real"] > 1.0001


def test_classifier_of_other_classes_is_refused(classifier: Path) -> None:
    images = torch.zeros(4, 32, 32, 3, dtype=torch.uint8)
    real = SmallImages(images, torch.arange(4), tuple("abcde"))
    with pytest.raises(WeightsError, match="has 4 classes, the images have 5"):
        surrogate_scores(images, real, classifier, CPU, 1)
    config = json.loads((classifier / "config.json").read_text())
    (classifier / "config.json").write_text(json.dumps(config | {"classifier": "no_such_module:f"}))
    with pytest.raises(WeightsError, match="its network is code, which is not run"):
        load_classifier(classifier)
    (classifier / "config.json").write_text('{"network": "sphereface4"}')
    with pytest.raises(WeightsError, match=r"is damaged \(classifier: Field required"):
        load_classifier(classifier)


@pytest.mark.parametrize(
    "key",
    mostly_slow(
        ["classifier", "classes", "width", "size", "channels", "operator", "bn_momentum", "other"],
        ["classes", "operator"],
    ),
)
def test_any_description_of_a_classifier_is_one_line(classifier: Path, key: str) -> None:
    """A network of gigabytes is refused before it is built, because its weights are smaller."""
    config = json.loads((classifier / "config.json").read_text())
    for value in (*WRONG_VALUES, 1 << 19, ["a"] * 100_000):
        (classifier / "config.json").write_text(json.dumps(config | {key: value}))
        read_or_refuse(lambda: load_classifier(classifier))
    for data in damaged(json.dumps(config).encode(), 20, 10):
        (classifier / "config.json").write_bytes(data)
        read_or_refuse(lambda: load_classifier(classifier))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of random weights of Inception."""
    inception = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        patch.setattr(inception, "load_state_dict_from_url", lambda *args, **options: {})
        network = inception.FeatureExtractorInceptionV3("any", ["2048"])
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.slow
def test_inception_scores(weights: Path) -> None:
    """With any weights the distance of a dataset from itself is 0, and scores match torchmetrics."""
    torch.manual_seed(1)
    real = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    scores = inception_scores(real, real, weights, CPU, splits=2)
    assert list(scores) == ["inception_score", "inception_score_std", "fid"]
    assert scores["fid"] == pytest.approx(0, abs=1e-2) and 1 < scores["inception_score"] < 4
    darker = inception_scores(real // 4, real, weights, CPU, splits=2)
    fid = pytest.importorskip("torchmetrics.image.fid").FrechetInceptionDistance
    metric = fid(feature_extractor_weights_path=str(weights), antialias=False)
    metric.update(real.permute(0, 3, 1, 2), real=True)
    metric.update((real // 4).permute(0, 3, 1, 2), real=False)
    assert darker["fid"] == pytest.approx(metric.compute().item(), rel=1e-3) and darker["fid"] > 1


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("__import__('pathlib').Path('evil').touch()",)


def test_inception_weights_are_read_without_running_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_fidelity")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"weight": Evil()}))
    with pytest.raises(WeightsError, match="without running code"):
        load_inception(tmp_path / "evil.pth")
    assert not (tmp_path / "evil").exists()
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="does not hold Inception's weights"):
        load_inception(tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"missing\.pth"):
        load_inception(tmp_path / "missing.pth")
