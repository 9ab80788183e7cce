"""Heads that are gathered and initialised, sharded or not."""

from __future__ import annotations

import pytest
import torch
from tiny import PEOPLE, SETTINGS, tiny_model

from sfplus.hypersphere import HEADS
from sfplus.recipes.settings.train import TrainSettings
from sfplus.training.head_ops import gather_head, load_classifier


def test_sharded_head_is_gathered() -> None:
    settings = TrainSettings.model_validate({**SETTINGS.model_dump(), "classes": "sharded", "sample_rate": 0.5})
    _, head = tiny_model(settings)
    gathered = gather_head(head, settings)
    assert gathered is not None and type(gathered) is HEADS["asoftmax"]
    assert torch.equal(gathered.weight, head.weight) and gathered.weight.shape == (PEOPLE, 32)


@pytest.mark.parametrize("name", ["sphereface2", "normface"])
def test_classifier_of_another_number_of_people_is_not_loaded(name: str) -> None:
    """Neither are its bias or scale, which belong to a number of people."""
    options = {"learnable": True} if name == "normface" else {}
    few, same, many = (HEADS[name](8, people, **options) for people in (5, 5, 50))
    with torch.no_grad():
        for parameter in few.parameters():
            parameter.add_(1)
    before = {key: tensor.clone() for key, tensor in many.state_dict().items()}
    assert not load_classifier(few.state_dict(), many) and load_classifier(few.state_dict(), same)
    assert all(torch.equal(tensor, before[key]) for key, tensor in many.state_dict().items())
    assert all(torch.equal(tensor, few.state_dict()[key]) for key, tensor in same.state_dict().items())
