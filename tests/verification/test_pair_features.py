from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from transcriptions import random_pairs

from sfplus.errors import PairsError
from sfplus.verification.protocols import PROTOCOLS, sphereface


@pytest.mark.parametrize("name", PROTOCOLS)
def test_features_that_are_not_finite_or_zero_are_refused(name: str) -> None:
    left, right, same, fold = random_pairs(7)
    for value, words in ((np.nan, "NaN or infinity"), (np.inf, "NaN or infinity")):
        broken = left.copy()
        broken[3, 1] = value
        with pytest.raises(PairsError, match=f"1 of 36 left features hold {words}, the first in pair 3"):
            PROTOCOLS[name](broken, right, same, fold)
    if name != "sphereface":
        broken = right.copy()
        broken[4] = 0
        with pytest.raises(PairsError, match="1 of 36 right features are zero, the first in pair 4"):
            PROTOCOLS[name](left, broken, same, fold)
        with pytest.raises(PairsError, match="features of 5 numbers cannot be split into those of a photo and its mir"):
            PROTOCOLS[name](left[:, :5], right[:, :5], same, fold, mirrored=True)


def test_bad_features_are_counted_and_the_first_is_named() -> None:
    left, right, same, fold = random_pairs(7)
    broken = right.copy()
    broken[[5, 9], 2] = np.nan
    broken[12] = np.inf
    with pytest.raises(PairsError, match=r"3 of 36 right features hold NaN or infinity, the first in pair 5"):
        sphereface(left, broken, same, fold)
    with pytest.raises(PairsError, match=r"36 of 36 left features equal the mean feature, the first in pair 0"):
        sphereface(np.full_like(left, 0.1), np.full_like(left, 0.1), same, fold)
    train = np.flatnonzero(fold != 0)
    left[fold == 0] = 0
    left[np.flatnonzero(fold == 0)[3]] = (left[train].sum(0) + right[train].sum(0)) / (2 * len(train))
    with pytest.raises(PairsError, match="1 of 36 left features equal the mean feature"):
        sphereface(left, right, same, fold)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fold": np.zeros(36, int)}, "at least 2 folds"),
        ({"fold": np.arange(36) % 2 * 2}, "numbered 0, 1, 2"),
        ({"fold": np.arange(36) % 2 - 1}, "numbered 0, 1, 2"),
        ({"fold": np.arange(35) % 2}, "do not fit"),
        ({"same": np.ones(36, bool)}, "both pairs"),
        ({"same": np.arange(36) % 3 == 0, "fold": np.arange(36) % 3}, "folds other than 0"),
        ({"left": np.zeros((36, 5))}, "do not fit"),
        ({"left": np.zeros(36)}, r"must be \(P, d\)"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(change: dict[str, NDArray[np.generic]], message: str) -> None:
    arguments = dict(zip(("left", "right", "same", "fold"), random_pairs(8), strict=True)) | change
    with pytest.raises(PairsError, match=message):
        sphereface(**arguments)  # type: ignore[arg-type]
