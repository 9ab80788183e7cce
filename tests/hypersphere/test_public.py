"""What others build upon: the public names, and that the package can be lifted out with nothing but torch."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import sfplus.hypersphere

NAMES = """
HEADS ASoftmax AdaFace AdversarialProjection AngleProjection ArcFace CosFace GroupProjection Head HypersphericalEnergy
LSoftmax NormFace Projection RandomProjection Softmax SphereConv2d SphereFace2 SphereFaceR Spread WeightNormLinear
class_energy hyperspherical_energy least_energy margin_cosine orthonormal_penalty orthonormal_regularizer random_energy
spread spread_of_layers to_sphere
"""


def test_no_public_name_disappears() -> None:
    assert set(NAMES.split()) <= set(sfplus.hypersphere.__all__)
    for name in sfplus.hypersphere.__all__:
        assert getattr(sfplus.hypersphere, name).__doc__, name


def test_imports_nothing_but_torch() -> None:
    allowed = {"torch", *sys.stdlib_module_names}
    for path in Path(sfplus.hypersphere.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert name.split(".")[0] in allowed or name.startswith("sfplus.hypersphere"), f"{path.name}: {name}"
