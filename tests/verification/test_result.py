from __future__ import annotations

import json

import numpy as np
import pytest
from transcriptions import random_pairs

from sfplus.verification.protocols import sphereface
from sfplus.verification.result import Result


def test_statistics_and_round_trip() -> None:
    result = sphereface(*random_pairs(4, folds=4))
    assert result.mean == pytest.approx(sum(result.accuracy) / 4)
    assert result.std == pytest.approx((sum((a - result.mean) ** 2 for a in result.accuracy) / 3) ** 0.5)
    assert result.standard_error == pytest.approx(result.std / 2)
    assert result.correct.mean() == pytest.approx(result.mean)
    data = json.loads(json.dumps(result.to_dict()))
    restored = Result.from_dict(data)
    assert restored.to_dict() == data
    assert np.array_equal(restored.correct, result.correct)


def test_the_released_fold_accuracies_have_their_published_mean() -> None:
    folds = np.array([99.33, 99.17, 98.83, 99.50, 99.17, 99.83, 99.17, 98.83, 99.83, 99.33]) / 100  # README, 99.30 %
    result = Result("sphereface", folds, folds, folds, folds > 0, np.arange(10))
    assert f"{100 * result.mean:.2f}" == "99.30"
