"""Classifiers with an angular margin, one module per family; `HEADS` holds them by the names that recipes use.

To add a head, add a module to this folder with a subclass of `Head` that has a `name`. The recipe keys of the head
are read from the same class: names, types and defaults from the signature, bounds from `limits`, descriptions from
the docstring (see `sfplus/recipes/settings/heads.py`).

SphereFace+ is any head plus the class energy: `head(x, y) + weight * class_energy(head.weight, y, power=2)`.
"""

from __future__ import annotations

import importlib
import pkgutil

from sfplus.hypersphere.heads.base import REGISTRY, Head

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)

HEADS: dict[str, type[Head]] = dict(sorted(REGISTRY.items()))
"""The heads by the names that recipes use."""
