"""Names and descriptions of models."""

from __future__ import annotations

from typing import Any

import pytest

from sfplus.artifacts.model_facts import ModelFacts, name_models

ASOFTMAX, ARCFACE = {"name": "asoftmax", "m": 4}, {"name": "arcface", "m": 0.5, "scale": 64}
MHE = {"mode": "paper", "power": 2, "weight": 1}
OWN = {"mode": "my:Spread", "weight": 1}


@pytest.mark.parametrize(
    ("facts", "description"),
    [
        ({"head": ASOFTMAX, "finetuned": False}, "SphereFace (A-Softmax, m = 4)"),
        ({"head": ASOFTMAX, "finetuned": True}, "SphereFace, fine-tuned without MHE (control)"),
        ({"head": ASOFTMAX, "finetuned": True, "energy": MHE}, "SphereFace+ (m = 4, MHE s = 2, weight 1)"),
        ({"head": ASOFTMAX}, "trained with A-Softmax (m = 4)"),
        ({"head": ARCFACE, "finetuned": False}, "ArcFace (m = 0.5, s = 64)"),
        ({"head": ARCFACE, "finetuned": True, "energy": MHE}, "ArcFace, fine-tuned with MHE (s = 2, weight 1)"),
        (
            {"head": ASOFTMAX, "finetuned": True, "energy": OWN},
            "SphereFace, fine-tuned with my:Spread (m = 4, weight = 1)",
        ),
        (
            {"head": ASOFTMAX, "finetuned": True, "config": {"energy": OWN | {"weight": 0}}},
            "SphereFace, fine-tuned without my:Spread (control)",
        ),
        (
            {"head": ASOFTMAX, "finetuned": True, "config": {"energy": {"mode": ["my:Spread"]}}},
            "SphereFace, fine-tuned without MHE (control)",
        ),
        ({}, ""),
    ],
)
def test_a_description_states_head_margin_energy_and_control(facts: dict[str, Any], description: str) -> None:
    assert ModelFacts(**facts).description == description
    assert ModelFacts(**facts).name == (description or "model")
    assert ModelFacts(**facts, label="mine").name == "mine"


def test_models_of_one_name_are_told_apart() -> None:
    first, second = ModelFacts("mine", ASOFTMAX), ModelFacts("mine", ARCFACE, finetuned=False)
    assert name_models({"a": first, "b": ModelFacts("yours", ASOFTMAX)}) == {"a": "mine", "b": "yours"}
    names = name_models({"a": first, "b": second, "c": first})
    assert names["b"] == "mine: ArcFace (m = 0.5, s = 64)"
    assert names["a"] == "mine: trained with A-Softmax (m = 4) [1]" and names["c"].endswith("[2]")
