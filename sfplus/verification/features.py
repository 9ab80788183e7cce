"""Features computed elsewhere, with the names of their photos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfplus.errors import DatasetError, UsageError
from sfplus.io.console import first_names, quantity
from sfplus.io.files import file_size
from sfplus.io.limits import check_limit
from sfplus.verification.feature_files import READERS
from sfplus.verification.feature_tables import LAYOUT, Features

__all__ = [
    "FEATURE_SUFFIXES", "Features", "check_features", "feature_digests", "read_features", "unusable_features",
]  # fmt: skip

FEATURE_SUFFIXES = tuple(READERS)


def read_features(path: Path) -> tuple[list[str], Features]:
    """Read the features of photos from a file.

    Supported formats; the names and features may be called as most projects call them (`names`, `paths`, `filenames`,
    `photo` ...; `features`, `embeddings`, `feats` ...), or be the only strings and the only matrix:

    - `.npz` with two arrays, names (N,) of strings and features (N, d), or with a feature (d,) for each name;
    - `.npy` with features (N, d), and the names beside it, or with fields of a string and a vector for each photo;
    - `.safetensors` with features (N, d), and the names as a JSON list in its metadata or beside it, or with a feature
      (d,) for each name;
    - `.parquet` and `.csv` with a column of names, and a column of features or a column for each of their numbers.

    Names beside a file `F.npy` are `F.txt` (a line each), `F.json` (a list), `F.names.npy` (strings), or `names.txt`,
    `names.json`, `names.npy` or `index.parquet` (column `photo`, as `sfplus embed` writes it) in the same folder.
    Pickled objects are never read.

    Args:
        path: the file.

    Returns:
        Names of photos as in the file, with `/`, and their features (N, d), float32 or float64; float16 and bfloat16
        become float32.

    Raises:
        UsageError: If the file has the name of another format.
        DatasetError: If the file is missing, damaged or of a different layout, or a name occurs twice.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        remedy = f"give {', '.join(READERS)}; pickles (.pkl, .pt) may run code and are not read"
        raise UsageError("is not a file of features", where=path, remedy=remedy)
    try:
        check_limit("feature_bytes", file_size(path), path, error=DatasetError)
        names, features = reader(path)
    except OSError as error:
        raise DatasetError(
            f"cannot be read ({error.strerror or error})", where=path, remedy="check the path"
        ) from error
    if features.dtype.kind == "f":  # also float16, long double and the other byte order
        features = features.astype(np.float64 if features.dtype.itemsize > 4 else np.float32, copy=False)
    if features.ndim != 2 or features.dtype not in (np.float32, np.float64) or not features.size:
        reason = f"its features are {features.dtype} {features.shape}, not floating-point numbers (N, d)"
        raise DatasetError(reason, where=path, remedy=LAYOUT)
    if len(names) != len(features):
        raise DatasetError(
            f"holds {quantity(len(names), 'name')} for {quantity(len(features), 'feature')}", where=path, remedy=LAYOUT
        )
    names = ["/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", ".")) for name in names]
    if len(set(names)) < len(names):
        repeated = [name for name, count in Counter(names).items() for _ in range(count - 1)]
        reason = f"{quantity(len(repeated), 'name occurs', 'names occur')} more than once: {first_names(repeated)}"
        raise DatasetError(reason, where=path, remedy="keep one feature for each photo")
    return names, features


def unusable_features(features: Features) -> NDArray[np.bool_]:
    """Return which features have no direction: (N,) bool, True for zero, NaN and infinity."""
    return np.asarray(~np.isfinite(features).all(1) | ~features.any(1))


def feature_digests(features: Features) -> list[bytes]:
    """Return a digest of each feature in single precision, by which those of the same photo are recognised."""
    rows = np.ascontiguousarray(features, np.float32)
    return [blake2b(row, digest_size=16).digest() for row in rows]


def check_features(
    names: Sequence[str], features: Features, path: Path, remedy: str = "compute them again, or leave them out"
) -> None:
    """Check that all features have a direction.

    Args:
        names: (N,) names of photos.
        features: (N, d) features.
        path: their file, for the message.
        remedy: what to do about them.

    Raises:
        DatasetError: If features are zero, or hold NaN or infinity.
    """
    bad = [name for name, is_bad in zip(names, unusable_features(features), strict=True) if is_bad]
    if bad:
        reason = f"features of {quantity(len(bad), 'photo')} are zero or hold NaN or infinity: {first_names(bad)}"
        raise DatasetError(reason, where=path, remedy=remedy)
