"""Batch normalisation over the processes and passes of a batch."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from tiny import SETTINGS, tiny_model

from sfplus.datasets.crops import CropDataset
from sfplus.device import Device, choose_device
from sfplus.networks import create
from sfplus.training.batch_norm import synchronise_batch_norm
from sfplus.training.distributed import ProcessGroup
from sfplus.training.face_task import fit


class Act(torch.nn.BatchNorm2d):
    """A subclass with an addition, like timm's."""


@pytest.mark.parametrize(
    ("kind", "device", "count", "passes", "over"),
    [
        (None, "cpu", 2, 5, 10), (None, "cuda", 2, 1, 10), (torch.nn.BatchNorm2d, "cpu", 1, 1, 10),
        (torch.nn.BatchNorm2d, "cpu", 1, 5, 2), (torch.nn.BatchNorm2d, "cpu", 2, 1, 5),
        (torch.nn.BatchNorm2d, "cuda", 2, 1, 10), (torch.nn.BatchNorm2d, "cuda", 2, 5, 2), (Act, "cuda", 2, 1, 5),
    ],
)  # fmt: skip
def test_batch_norm_is_synchronised_or_a_warning_is_given(
    kind: type[torch.nn.Module] | None,
    device: str,
    count: int,
    passes: int,
    over: int,
    recwarn: pytest.WarningsRecorder,
) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), kind(4) if kind else torch.nn.ReLU())  # type: ignore[call-arg]
    tensors = network.state_dict(keep_vars=True)
    processes = ProcessGroup(choose_device("cpu"))
    processes.count, processes.device = count, Device(torch.device(device))
    converted = synchronise_batch_norm(network, processes, 10, passes)
    synchronised = kind is torch.nn.BatchNorm2d and device == "cuda"
    assert converted is network and type(network[1]) is (
        torch.nn.SyncBatchNorm if synchronised else kind or torch.nn.ReLU
    )
    assert all(tensor is network.state_dict(keep_vars=True)[name] for name, tensor in tensors.items())
    messages = [str(warning.message) for warning in recwarn]
    assert len(messages) == (over < 10) and all(
        f"is over {over} crops, not over the batch of 10:" in text for text in messages
    )


@pytest.mark.parametrize("passes", [1, 5])
def test_training_warns_of_batch_norm_over_a_pass(passes: int, crops: CropDataset, tmp_path: Path) -> None:
    network = create("sphereface4", feature_size=32, width=0.125, batch_norm=True)
    settings = SETTINGS.model_copy(update={"accumulate": passes, "max_iter": 1})
    with warnings.catch_warnings(record=True) as caught:
        fit(network, tiny_model(settings)[1], crops, settings, tmp_path, choose_device("cpu"))
    assert ["is over 2 crops" in str(warning.message) for warning in caught] == [True] * (passes > 1)
