from __future__ import annotations

import json
import math
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sfplus.datasets.crops import CropDataset
from sfplus.device import choose_device
from sfplus.errors import DatasetError, TrainingError
from sfplus.hypersphere import class_energy
from sfplus.networks import to_input
from sfplus.training.batches import draw_batch
from sfplus.training.loop import fit
from sfplus.training.settings import TrainingSettings

from tiny import PEOPLE, SETTINGS, Train, tiny_model

Undisturbed = tuple[dict[str, torch.Tensor], Path]


def same(state: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in state.items())
