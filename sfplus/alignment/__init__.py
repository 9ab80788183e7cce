"""Aligned crops: templates, two least-squares fits and the warp."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sfplus.alignment.similarity import fit_similarity
from sfplus.alignment.templates import DEFAULT_TEMPLATE, TEMPLATE_OF_SIZE, TEMPLATES, Template, find_template

if TYPE_CHECKING:
    from sfplus.alignment.batched_warp import warp_batch
    from sfplus.alignment.warping import Border, Interpolation, align, centre_crop, narrow_crop, warp

__all__ = [
    "DEFAULT_TEMPLATE",
    "TEMPLATES",
    "TEMPLATE_OF_SIZE",
    "Border",
    "Interpolation",
    "Template",
    "align",
    "centre_crop",
    "find_template",
    "fit_similarity",
    "narrow_crop",
    "warp",
    "warp_batch",
]


_WARP = ("Border", "Interpolation", "align", "centre_crop", "narrow_crop", "warp")
_LAZY = {"warp_batch": "sfplus.alignment.batched_warp"} | dict.fromkeys(_WARP, "sfplus.alignment.warping")


def __getattr__(name: str) -> Any:
    """Load the warps on first use: importing this package does not import OpenCV or torch."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
