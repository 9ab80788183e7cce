"""The detector on a GPU: it waits only where it must (tested without one), and finds the same faces."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from face_photos import FACE, PHOTOS, same_bits, shrunk
from fake_cuda import SYNCHRONISATIONS, FakeTensorDeviceMismatchError, fake_cuda
from slow_cases import mostly_slow
from torch._subclasses.fake_tensor import FakeTensor

from sfplus.detection import Detector, Faces
from sfplus.detection.mtcnn import Parity
from sfplus.detection.sizes import sizes_for
from sfplus.device import Device

GPU = Device(torch.device("cuda"))


class Transfers:
    """What the host learns from the device: recorded on the CPU, and returned again to code on fake tensors.

    Whatever needs values that are not recorded fails, since fake tensors have none.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.values: list[Any] = []
        self.originals = {name: getattr(torch.Tensor, name) for name in ("cpu", "tolist")}
        self.monkeypatch = monkeypatch

    def record(self) -> None:
        for name in ("cpu", "tolist"):
            self.monkeypatch.setattr(torch.Tensor, name, self._recorder(self.originals[name]))

    def _recorder(self, original: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
        def transfer(tensor: torch.Tensor) -> Any:
            value = original(tensor)
            if isinstance(value, torch.Tensor):
                array = value.numpy().copy()
                self.values.append(SimpleNamespace(numpy=lambda: array))
            else:
                self.values.append(value)
            return value

        return transfer

    def replay(self) -> None:
        for name in ("cpu", "tolist"):
            self.monkeypatch.setattr(FakeTensor, name, lambda tensor: self.values.pop(0))
        self.monkeypatch.setattr(torch, "from_numpy", self._from_numpy)

    def _from_numpy(self, array: np.ndarray) -> torch.Tensor:
        return torch.empty(array.shape, dtype=getattr(torch, str(array.dtype)))


Detect = Callable[..., list[Faces]]
SMALL = [shrunk(100, 90), PHOTOS[3], shrunk(100, 90)[:, ::-1]]


@pytest.fixture
def detect_on_fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Detect:
    """Detect on the CPU with the batches of a GPU, then again on fake CUDA tensors, which get the same transfers."""

    def detect(parity: Parity = "none", change: Callable[[Detector], None] = lambda _: None) -> list[Faces]:
        transfers, sizes = (
            Transfers(monkeypatch),
            sizes_for(GPU)._replace(batch=20_000, refine=96, output=32, mirrored=32),
        )
        monkeypatch.setattr("sfplus.detection.mtcnn.sizes_for", lambda device: sizes)
        monkeypatch.setattr("sfplus.detection.mtcnn.count_threads", lambda: 1)
        monkeypatch.setattr("sfplus.detection.suppression._PAIRS", 1 << 24)
        settings: dict[str, Any] = {"min_face": 30, "factor": 0.7, "parity": parity}
        transfers.record()
        expected = Detector(device="cpu", **settings).detect(SMALL)
        assert len(transfers.values) == 10 and sum(map(len, expected)) >= 3
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # fake tensors cannot be pinned
        monkeypatch.setattr(torch.Tensor, "is_pinned", lambda tensor: True)
        with fake_cuda() as gpu:
            with gpu.copies():
                detector = Detector(device=GPU, **settings)
            transfers.replay()
            change(detector)
            faces = detector.detect(SMALL)
        assert not transfers.values
        return faces

    return detect


@pytest.mark.slow
@pytest.mark.parametrize("parity", ["none", "facenet-pytorch", "matlab"])
def test_detection_stays_on_the_device_and_waits_ten_times(detect_on_fake_gpu: Detect, parity: Parity) -> None:
    assert sum(map(len, detect_on_fake_gpu(parity))) >= 3


CHANGES = {
    "a list as an index": lambda detector: setattr(detector, "_landmark_order", [1, 0, 2, 4, 3]),
    "an order on the CPU": lambda detector: setattr(detector, "_landmark_order", torch.tensor([1, 0, 2, 4, 3])),
    "a network on the CPU": lambda detector: setattr(detector._networks, "_r", detector._networks._r.to("cpu")),
    "nonzero": lambda _: setattr(torch, "nonzero_static", lambda mask, size: mask.nonzero()),
}


@pytest.mark.parametrize("name", mostly_slow(CHANGES, ["nonzero"]))
def test_a_change_that_waits_or_leaves_the_device_is_noticed(
    detect_on_fake_gpu: Detect, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "nonzero_static", torch.nonzero_static)  # restored afterwards
    with pytest.raises((*SYNCHRONISATIONS, FakeTensorDeviceMismatchError)):
        detect_on_fake_gpu(change=CHANGES[name])


@pytest.mark.gpu
@pytest.mark.parametrize("parity", ["none", "facenet-pytorch", "matlab"])
def test_the_faces_of_a_gpu_are_those_of_the_cpu(parity: Parity) -> None:
    large = np.tile(FACE, (6, 8, 1))  # of several canvases
    photos = [*PHOTOS, large, FACE[:, 40:]]
    on_gpu, on_cpu = (Detector(device=device, parity=parity).detect(photos) for device in ("cuda", "cpu"))
    assert sum(map(len, on_cpu)) >= 40
    for faces, expected in zip(on_gpu, on_cpu, strict=True):
        assert len(faces) == len(expected)
        order = np.lexsort(expected.boxes.round().T), np.lexsort(faces.boxes.round().T)  # scores are nearly equal
        np.testing.assert_allclose(faces.boxes[order[1]], expected.boxes[order[0]], atol=0.02)
        np.testing.assert_allclose(faces.landmarks[order[1]], expected.landmarks[order[0]], atol=0.02)
        np.testing.assert_allclose(faces.scores[order[1]], expected.scores[order[0]], atol=1e-4)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_bits_in_any_order() -> None:
    detector = Detector(device="cuda")
    expected = [detector.detect([photo])[0] for photo in PHOTOS]
    results = detector.detect(PHOTOS[::-1])
    assert all(same_bits(faces, one) for faces, one in zip(results[::-1], expected, strict=True))


@pytest.mark.gpu
def test_detection_of_many_photos_needs_bounded_memory_of_a_gpu() -> None:
    detector = Detector(device="cuda")
    photos = [np.tile(FACE, (5, 10, 1))] * 40  # 1.8 megapixels each
    torch.cuda.reset_peak_memory_stats()
    assert len(detector.detect(photos)) == 40
    assert torch.cuda.max_memory_allocated() < 6 << 30
