"""Read lists of pairs of any format.

To add a format, add a module to this package whose `FORMATS` is a tuple of `PairFormat`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

from sfplus.datasets.pairs.table import Pairs


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


def read_pairs(path: Path) -> Pairs:
    """Read a list of pairs; its format is recognised from the path and its first line.

    - `pairs.txt` of LFW's view 2 (`read_view_2`);
    - `pairsDevTest.txt` of LFW's view 1, with `pairsDevTrain.txt` in the same folder (`read_view_1`);
    - lines `path path label` with an optional fold, separated by tabs, commas or spaces (`read_plain`);
    - a folder `Protocol/Split/FP` or `FF` of CFP (`read_cfp`);
    - a `.bin` file of insightface (`read_bin_pairs`).

    Raises:
        PairsError: If the list is missing or malformed; `where` is `file:line` if a line is malformed.
    """
    return next(pair_format.read(path) for pair_format in _pair_formats() if pair_format.matches(path))


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
