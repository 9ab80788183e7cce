import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import KFold

from sfplus.datasets.pairs import read_pairs
from sfplus.datasets.verification_bin import read_bin


def photo(shade: int, form: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(file, form)
    return file.getvalue()


PHOTOS = [photo(10 * i) for i in range(6)]


LABELS = [True, False, True]


def test_repeated_photos_are_one_photo(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    a, b, c = PHOTOS[:3]
    path.write_bytes(pickle.dumps(([a, b, bytes(bytearray(b)), c, c, c], LABELS)))
    verification_set = read_bin(path)
    assert verification_set.images == [a, b, c]
    pairs = read_pairs(path)
    assert (pairs.left, pairs.right) == (("00000", "00001", "00002"), ("00001", "00002", "00002"))
    assert pairs.people.left.tolist() == [0, 0, 1], "photos that a pair calls the same are one person"


@pytest.mark.parametrize("count", [3, 10, 60, 67])
def test_folds_are_those_of_insightface(count: int, tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(pickle.dumps(([PHOTOS[i % 6] for i in range(2 * count)], [i % 2 == 0 for i in range(count)])))
    fold = np.empty(count, int)
    for k, (_, test) in enumerate(KFold(min(10, count), shuffle=False).split(np.arange(count))):
        fold[test] = k
    assert read_pairs(path).fold.tolist() == fold.tolist()
