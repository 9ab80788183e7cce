"""Checks of the people that a classifier is trained on, and of whether it learns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sfplus.datasets.crops import CropDataset, PackedCrops
from sfplus.errors import DatasetError, warn_user
from sfplus.io.console import first_names


def check_people(crops: CropDataset | PackedCrops, classes: int, warn: bool) -> None:
    """Refuse labels beyond the head and a single class; warn of classes with no crop or one crop."""
    labels = crops.labels
    if int(labels.max()) >= classes:
        what = f"label {int(labels.max())} is beyond the {classes} classes of the head"
        raise DatasetError(what, where="crops", remedy="create the head for as many people as there are")
    if classes < 2:
        raise DatasetError("there is only 1 person", where="crops", remedy="training needs at least two people")
    counts = torch.bincount(labels, minlength=classes)
    for number, description in ((0, "no crop"), (1, "one crop")) if warn else ():
        if few := (counts == number).nonzero().flatten().tolist():
            names = first_names([crops.people[label] if crops.people else f"label {label}" for label in few])
            verb = "has" if len(few) == 1 else "have"
            warn_user(f"{len(few)} of {classes} people {verb} {description}: {names}")


def warn_at_chance(rows: Sequence[Mapping[str, Any]], classes: int) -> bool:
    """Warn if the loss stays at chance, the most common failure of A-Softmax from scratch; return whether it does.

    Args:
        rows: the last rows of the history; fewer than five are not judged.
        classes: number of classes.
    """
    chance = math.log(classes)
    at_chance = (abs(row["loss"] - chance) < 0.01 * chance and row["accuracy"] < 3 / classes for row in rows)
    if len(rows) < 5 or not all(at_chance):
        return False
    warn_user(
        f"the loss stays at {chance:.3f} = ln({classes}), which is chance: the network learns nothing; "
        "let lambda fall more slowly (smaller gamma), start from a model trained with a smaller m, or change "
        "base_lr or batch_size",
    )
    return True
