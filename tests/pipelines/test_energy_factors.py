"""Every variant of an energy that the header of a shipped recipe names has the factors of the released code."""

from __future__ import annotations

import itertools
import re

import pytest
from torch import nn

from sfplus.artifacts.settings import deciding_settings
from sfplus.hypersphere import HypersphericalEnergy, Orthonormality
from sfplus.image_tasks.classification import create_regularizer
from sfplus.io.files import digest_json
from sfplus.recipes.load import find_recipe, load_recipe, recipe_names
from sfplus.recipes.settings.classify import RegularizerSettings

HYPERSPHERICAL = {"0": (1, 10), "1": (1, 10), "2": (1, 10), "a0": (1, 10), "a1": (0.1, 1), "a2": (0.1, 1)}
"""Factors of hidden layers and of the output layer by power: MHE, code/architecture.py, _add_thomson_constraint and
_add_thomson_constraint_final; those of the CoMHE repository, for s = 2, are equal."""
ORTHONORMAL = 2e-4
"""SphereNet, spherenet.py, _add_orthogonal_constraint."""
OWN = {"mhe-imbalance-mnist": {"output": 1}}
"""Factors that a recipe says are this project's own."""


def comment(name: str) -> str:
    """Return the comment at the top of a recipe as one line."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), find_recipe(name).read_text("utf-8").splitlines())
    return " ".join(line.strip("# ") for line in lines)


def named_variants(name: str) -> list[list[str]]:
    """Return the overrides of the energies that the header of a recipe names, alone and in all combinations."""
    text = comment(name).partition("Variants:")[2]
    same = re.search(r"same as those of ([\w-]+)", text)
    if same:
        return named_variants(same.group(1))
    options: dict[str, list[str]] = {}
    for key, values in re.findall(r"(classify\.energy\.\w+)=([\w.|-]+)", text):
        options.setdefault(key, [""]).extend(f"{key}={value}" for value in values.split("|"))
    return [[change for change in changes if change] for changes in itertools.product(*options.values())]


RECIPES = [
    name
    for name in recipe_names()
    if "\n  energy:" in find_recipe(name).read_text("utf-8") and load_recipe(find_recipe(name)).classify
]
CASES = [(name, tuple(changes)) for name in RECIPES for changes in named_variants(name)]


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_variants_have_the_released_factors(name: str, changes: tuple[str, ...]) -> None:
    recipe = load_recipe(find_recipe(name), changes)
    assert recipe.classify is not None
    settings = recipe.classify.energy
    network = nn.Sequential(nn.Conv2d(3, 40, 3), nn.Conv2d(40, 40, 3), nn.Flatten(), nn.Linear(40, 10))
    energy = create_regularizer(network, settings)
    if isinstance(energy, HypersphericalEnergy):
        hidden, output = HYPERSPHERICAL[str(settings.power)]
        own = OWN.get(name, {})
        assert (energy.hidden, energy.output) == (own.get("hidden", hidden), own.get("output", output))
    elif isinstance(energy, Orthonormality):
        assert energy.weight == ORTHONORMAL
    else:
        assert settings.mode == "none"


def test_the_headers_name_variants() -> None:
    """All recipes with energies are covered, and so are the powers of both MHE recipes."""
    assert {"mhe-cifar100", "mhe-cifar10", "orthonormal-cifar100", "comhe-cifar100", "mhe-imagenet"} <= {*RECIPES}
    assert sum("classify.energy.power=a1" in changes for _, changes in CASES) >= 2
    assert ("orthonormal-cifar100", ("classify.energy.mode=mhe",)) in CASES


def test_factors_are_found_whether_they_are_filled_in_or_absent() -> None:
    """Settings of artefacts made before factors were filled in have none, and mean the same."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 4))
    for power, (hidden, output) in HYPERSPHERICAL.items():
        value = int(power) if power.isdecimal() else power
        for absent in ({}, {"hidden": None, "output": None}):
            settings = RegularizerSettings.model_validate({"mode": "mhe", "power": value, **absent})
            energy = create_regularizer(network, settings)
            assert isinstance(energy, HypersphericalEnergy) and (energy.hidden, energy.output) == (hidden, output)


@pytest.mark.parametrize(
    ("name", "fingerprint"),
    [
        ("mhe-cifar100", "94011266aad87bfd"), ("mhe-cifar10", "e887101de612f697"),
        ("orthonormal-cifar100", "e1945b720d2c80ef"), ("comhe-cifar100", "90fc77fedcab95ad"),
        ("mhe-imbalance-mnist", "cde0dcf2016ca84b"),
    ],
)  # fmt: skip
def test_default_variants_keep_their_fingerprints(name: str, fingerprint: str) -> None:
    """Their recipes once gave the released factors as numbers."""
    recipe = load_recipe(find_recipe(name))
    assert recipe.classify is not None and digest_json(deciding_settings(recipe.classify)).startswith(fingerprint)
