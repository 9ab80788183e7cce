"""Storage formats of photo collections, one module per format.

To add a format, add a module with a subclass of `PhotoCollection` that is called `FORMAT`.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from sfplus.datasets.records import PhotoCollection


@cache
def collection_formats() -> tuple[type[PhotoCollection], ...]:
    """Return the formats of all modules of this package, in the order in which they are tried."""
    modules = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return tuple(sorted((module.FORMAT for module in modules), key=lambda format_: format_.priority))
