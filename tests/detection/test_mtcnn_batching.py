"""The batches of the detector on a GPU, tested on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from face_photos import PHOTOS
from torch.utils._python_dispatch import TorchDispatchMode

from sfplus.detection import Detector, mtcnn


@pytest.fixture
def gpu_batching(monkeypatch: pytest.MonkeyPatch) -> Detector:
    """A detector on the CPU with the batches of a GPU: many canvases, candidates and photos at a time."""
    detector = Detector(device="cpu")
    detector.sizes = detector.sizes._replace(batch=100_000, search=1 << 23, refine=96, output=32, mirrored=32)
    monkeypatch.setattr("sfplus.detection.suppression._PAIRS", 1 << 24)
    return detector


def test_the_batches_of_a_gpu_give_the_same_faces(gpu_batching: Detector) -> None:
    detector = Detector(device="cpu")
    for faces, expected in zip(gpu_batching.detect(PHOTOS), detector.detect(PHOTOS), strict=True):
        np.testing.assert_allclose(faces.boxes, expected.boxes, atol=1e-3)
        np.testing.assert_allclose(faces.landmarks, expected.landmarks, atol=1e-3)


class Synchronisations(TorchDispatchMode):
    """Counts operations whose result the host waits for: values, sizes that depend on values, copies of tensors."""

    WAITS = (
        "aten.nonzero.",
        "aten._local_scalar_dense",
        "aten.equal",
        "aten.unique",
        "aten.masked_select",
        "torchvision",
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: object, types: object, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
    ) -> object:
        uses_mask = func is torch.ops.aten.index.Tensor and any(
            part is not None and part.dtype == torch.bool
            for part in args[1]  # type: ignore[attr-defined]
        )
        self.count += uses_mask or str(func).startswith(self.WAITS)
        return func(*args, **(kwargs or {}))  # type: ignore[operator]


@pytest.mark.slow
def test_the_number_of_synchronisations_does_not_grow_with_the_photos(
    gpu_batching: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor with the batches of canvases or candidates; all of them are transfers by `tolist` and `cpu`."""
    transfers: list[str] = []
    for name in ("tolist", "cpu"):
        method = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda tensor, method=method, name=name: transfers.append(name) or method(tensor)
        )
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # one worker, as on a GPU
    waits = []
    for photos in (PHOTOS, PHOTOS * 6):
        transfers.clear()
        with Synchronisations() as synchronisations:
            assert len(gpu_batching.detect(photos)) == len(photos)
        waits.append((synchronisations.count, len(transfers)))
    assert waits == [(0, 10), (0, 10)]  # 1 + 4 for the first network, 2 and 2 for the others, 1 for the faces


@pytest.mark.slow
def test_a_large_photo_returns_freed_memory_between_canvases(monkeypatch: pytest.MonkeyPatch) -> None:
    returned: list[None] = []
    monkeypatch.setattr(mtcnn, "return_freed_memory", lambda: returned.append(None))
    detector = Detector(device="cpu")
    detector.detect([np.zeros((100, 100, 3), np.uint8)] * 20)
    assert not returned
    detector.detect(np.zeros((1600, 2400, 3), np.uint8))
    assert returned
