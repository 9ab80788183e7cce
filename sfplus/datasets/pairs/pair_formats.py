"""Read lists of pairs of any format.

To add a format, add a module to this package whose `FORMATS` is a tuple of `PairFormat`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path

from sfplus.datasets.pairs.table import Pairs, split_into_folds
from sfplus.errors import PairsError


def _single_file(path: Path) -> list[Path]:
    return [path]


@dataclass(frozen=True)
class PairFormat:
    """A format of lists of pairs.

    Attributes:
        matches: returns True if a path has this format; the last format matches all paths.
        read: reads the pairs.
        files: returns all files that `read` reads, for fingerprints.
        priority: formats with a lower value are tried first.
    """

    matches: Callable[[Path], bool]
    read: Callable[[Path], Pairs]
    files: Callable[[Path], list[Path]] = _single_file
    priority: int = 0


def read_pairs(path: Path, folds: int = 0) -> Pairs:
    """Read a list of pairs; its format is recognised from its content, and in a few cases from its name.

    - LFW's forms: `pairs.txt` of view 2 with or without header, view 1 (`read_lfw`);
    - `pairsDevTest.txt` of LFW's view 1, with `pairsDevTrain.txt` in the same folder (`read_view_1`);
    - lines `path path label` with an optional fold (`read_plain`);
    - a folder `Protocol/Split/FP` or `FF` of CFP (`read_cfp`);
    - a `.bin` file of insightface (`read_bin_pairs`).

    Args:
        path: the list.
        folds: the number of folds to split the pairs into, instead of the folds of the list; 0 to keep these.

    Raises:
        PairsError: If the list is missing or malformed (`where` is `file:line` if a line is), or has too few pairs for
            these folds.
    """
    pairs = next(pair_format.read(path) for pair_format in _pair_formats() if pair_format.matches(path))
    if not folds:
        return pairs
    if len(pairs.tested) < len(pairs):
        raise PairsError("holds pairs that only choose thresholds", where=path, remedy="leave out the number of folds")
    try:
        return replace(pairs, fold=split_into_folds(pairs.same, folds))
    except PairsError as error:
        raise PairsError(error.reason, where=path, remedy=error.remedy) from None


def pair_files(path: Path) -> list[Path]:
    """Return the files that `read_pairs` reads, for fingerprints; a list in a single file is not opened."""
    formats = [pair_format for pair_format in _pair_formats() if pair_format.files is not _single_file]
    return next((pair_format.files(path) for pair_format in formats if pair_format.matches(path)), [path])


@cache
def _pair_formats() -> tuple[PairFormat, ...]:
    package = __name__.rpartition(".")[0]
    names = [module.name for module in pkgutil.iter_modules(import_module(package).__path__)]
    modules = [import_module(f"{package}.{name}") for name in names]
    formats = [pair_format for module in modules for pair_format in getattr(module, "FORMATS", ())]
    return tuple(sorted(formats, key=lambda pair_format: pair_format.priority))
