"""Aligned crops: templates, the two least-squares fits, and the warp."""

from __future__ import annotations

from sfplus.alignment.similarity import fit_similarity
from sfplus.alignment.templates import TEMPLATES, Template, find_template
from sfplus.alignment.warp import align, centre_crop, warp

__all__ = ["TEMPLATES", "Template", "align", "centre_crop", "find_template", "fit_similarity", "warp"]
