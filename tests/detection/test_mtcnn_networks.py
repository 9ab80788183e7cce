import sys
from pathlib import Path

import pytest
import torch
from facenet_pytorch.models.mtcnn import ONet, RNet

from sfplus.detection import Detector
from sfplus.detection.mtcnn_networks import MtcnnNetworks
from sfplus.device import choose_device
from sfplus.errors import DependencyError


@torch.inference_mode()
def test_the_outputs_are_those_of_facenet_pytorch() -> None:
    networks, generator = MtcnnNetworks(choose_device("cpu")), torch.Generator().manual_seed(0)
    for side, network, run in ((24, RNet(), networks.refine), (48, ONet(), networks.output)):
        pixels = torch.randn(3, 4, side, side, generator=generator).contiguous(memory_format=torch.channels_last)
        *expected, probabilities = network(pixels[:, :3].contiguous())
        scores, *outputs = run(pixels)
        torch.testing.assert_close(scores, probabilities[:, 1], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(outputs, expected, atol=1e-5, rtol=1e-5)


def test_a_missing_facenet_pytorch_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    with pytest.raises(DependencyError, match=r"needs facenet-pytorch, .*--no-deps facenet-pytorch==2.6.0"):
        Detector(device="cpu")


@pytest.mark.parametrize("change", ["missing", "more", "shape", "number"])
def test_foreign_weights_of_facenet_pytorch_are_reported(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load = torch.load

    def foreign(file: Path, **options: object) -> dict[str, object]:
        weights = load(file, **options)
        if file.stem == "rnet":
            weight = weights.pop("dense4.bias")
            changed = {"more": {"dense4.bias": weight, "dense9.bias": weight}, "shape": {"dense4.bias": weight[1:]}}
            weights |= changed.get(change, {"dense4.bias": 3} if change == "number" else {})
        return weights

    monkeypatch.setattr(torch, "load", foreign)
    with pytest.raises(DependencyError, match=r"facenet-pytorch is installed but broken \(.*pip install --no-deps"):
        Detector(device="cpu")


def test_a_broken_facenet_pytorch_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError("no pnet.pt")

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(DependencyError, match=r"broken \(no pnet.pt\).*pip install --no-deps"):
        Detector(device="cpu")
