"""The settings of the stage `train`."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from sfplus.hypersphere import HEADS
from sfplus.networks import is_library_network, network_names
from sfplus.networks.sphereface import BLOCKS
from sfplus.recipes.settings.energy import EnergySettings
from sfplus.recipes.settings.heads import HEAD_SETTINGS
from sfplus.recipes.settings.train import SolverSettings, TrainSettings


def test_defaults_are_those_of_the_sphereface_solver() -> None:
    expected = {
        "network": "sphereface20",
        "feature_size": 512,
        "width": 1.0,
        "head": {
            "name": "asoftmax",
            "m": 4,
            "base": 1000,
            "gamma": 0.12,
            "power": 1,
            "lambda_min": 5,
            "iteration": 0,
            "gradient": "exact",
        },
        "energy": None,
        "base_lr": 0.1,
        "steps": (16000, 24000, 28000),
        "lr_gamma": 0.1,
        "max_iter": 28000,
        "batch_size": 512,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "mirror": True,
    }
    assert expected.items() <= TrainSettings().model_dump().items()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_Ir": 0.1}, "base_Ir"),
        ({"head": {"margin": 4}}, "margin"),
        ({"head": {"m": 0}}, "m"),
        ({"head": {"name": "arcfase"}}, "did you mean 'arcface'"),
        ({"head": {"name": "arcface", "lambda_min": 5}}, "lambda_min"),
        ({"head": {"name": ["arcface"]}}, "no classifier is called"),
        ({"head": 4}, "given by keys"),
        ({"energy": {"mode": "reference"}}, "mode"),
        ({"energy": {"power": -1}}, "power"),
        ({"energy": {"power": 11}}, "power"),
        ({"head": {"name": "adaface"}, "accumulate": 4}, "adaface cannot be combined with accumulate"),
        ({"network": "sphereface21"}, "network"),
        ({"network": "timm:"}, "network"),
        ({"epochs": 10, "steps": [5, 11]}, "steps are epochs"),
        ({"batch_size": 10, "accumulate": 4}, "4 equal passes"),
        ({"log_every": 100, "evaluate_every": 150}, "multiple of log_every"),
        ({"ema": 1.0}, "ema"),
        ({"classes": "sharded", "ema": 0.9}, "cannot be combined with ema"),
        ({"classes": "sharded", "precision": "fp16"}, "ema, fp16 or"),
        ({"classes": "sharded", "energy": {"mode": "caffe"}}, "or an energy of mode caffe"),
        ({"sample_rate": 0.5}, "sample_rate needs classes: sharded"),
        ({"clip": 0}, "clip"),
        ({"precision": "half"}, "precision"),
        ({"steps": [100, 50]}, "rising"),
        ({"steps": [100, 100]}, "rising"),
        ({"steps": [0, 100]}, "rising"),
        ({"max_iter": 0}, "max_iter"),
        ({"batch_size": 0}, "batch_size"),
        ({"base_lr": float("nan")}, "base_lr"),
        ({"seed": -1}, "seed"),
    ],
)
def test_invalid_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainSettings.model_validate(change)


def test_all_training_settings_are_described() -> None:
    for settings in (*HEAD_SETTINGS.values(), EnergySettings, SolverSettings, TrainSettings):
        for name, field in settings.model_fields.items():
            assert field.description, name


def test_names_agree_with_networks_and_heads() -> None:
    """The settings do not import torch, so they cannot take all names from the classes."""
    assert all(TrainSettings(network=name).network == name for name in network_names())
    assert is_library_network(TrainSettings(network="torchvision:resnet18").network)
    assert get_args(TrainSettings.model_fields["block"].annotation) == BLOCKS
    assert list(HEAD_SETTINGS) == list(HEADS)


@pytest.mark.parametrize("name", HEADS)
def test_the_settings_of_a_head_are_its_options_with_their_defaults(name: str) -> None:
    """A recipe without options trains the same head as the class without arguments."""
    settings = TrainSettings.model_validate({"head": {"name": name}}).head
    options = settings.model_dump(exclude={"name"})
    defaults: dict[str, Any] = {}
    for base in HEADS[name].__mro__:
        for key, parameter in inspect.signature(base.__init__).parameters.items():
            if parameter.default is not inspect.Parameter.empty:
                defaults.setdefault(key, parameter.default)
    assert settings.name == name and options == {key: defaults.get(key) for key in options}
    parameters = inspect.signature(HEADS[name]).parameters
    assert {key for key, value in parameters.items() if value.default is not inspect.Parameter.empty} <= set(options)
    assert HEADS[name](8, 3, **options).weight.shape == (3, 8)
