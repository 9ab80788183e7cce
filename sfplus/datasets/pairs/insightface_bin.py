"""The pairs of insightface's verification sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sfplus.datasets.pairs.pair_formats import PairFormat
from sfplus.datasets.pairs.table import Pairs
from sfplus.datasets.verification_bin import BIN_SUFFIX, image_name, read_bin

_FOLDS = 10


def read_bin_pairs(path: Path) -> Pairs:
    """Read the pairs of a `.bin` file; photos are named by their numbers (`00000`).

    The pairs are split into 10 folds in their order, as scikit-learn's `KFold` does.

    Raises:
        PairsError: If `read_bin` raises it.
    """
    images = read_bin(path)
    folds = np.array_split(np.arange(len(images.same)), min(_FOLDS, len(images.same)))
    fold = np.repeat(np.arange(len(folds)), [len(members) for members in folds])
    left, right = (tuple(image_name(i) for i in side.tolist()) for side in (images.left, images.right))
    return Pairs(left, right, images.same, fold)


FORMATS = (PairFormat(lambda path: path.suffix.lower() == BIN_SUFFIX, read_bin_pairs, priority=1),)
