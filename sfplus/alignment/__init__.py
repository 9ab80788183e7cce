"""Aligned crops: templates, two least-squares fits and the warp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfplus.alignment.similarity import fit_similarity
from sfplus.alignment.templates import DEFAULT_TEMPLATE, TEMPLATE_OF_SIZE, TEMPLATES, Template, find_template
from sfplus.alignment.warp import Border, Interpolation, align, centre_crop, narrow_crop, warp

if TYPE_CHECKING:
    from sfplus.alignment.batched_warp import warp_batch

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


def __getattr__(name: str) -> Any:
    if name == "warp_batch":  # imports torch, which takes seconds
        from sfplus.alignment.batched_warp import warp_batch

        return warp_batch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
