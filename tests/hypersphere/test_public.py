"""The public names, and the package's independence of all other packages except torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import sfplus.hypersphere

NAMES = """
ASoftmax AdaFace AdversarialProjection AngleProjection ArcFace CosFace GroupProjection HEADS Head HypersphericalEnergy
LSoftmax NormFace Orthonormality Projection RandomProjection ShardedHead Softmax SphereConv2d SphereFace2 SphereFaceR
Spread Uniformity WeightNormLinear class_energy cosine_distillation hyperspherical_energy least_energy margin_cosine
measure_layer_uniformity measure_uniformity orthonormal_penalty orthonormal_regularizer random_energy
relational_distillation spread spread_of_layers to_sphere
"""


def test_public_names_stay() -> None:
    assert set(NAMES.split()) <= set(sfplus.hypersphere.__all__)
    for name in sfplus.hypersphere.__all__:
        assert getattr(sfplus.hypersphere, name).__doc__, name


def test_package_imports_only_torch() -> None:
    allowed = {"torch", *sys.stdlib_module_names}
    for path in Path(sfplus.hypersphere.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert name.split(".")[0] in allowed or name.startswith("sfplus.hypersphere"), f"{path.name}: {name}"


def test_importing_the_package_does_not_import_the_compiler_of_torch() -> None:
    code = "import sys, sfplus.hypersphere as h; sys.exit('torch._dynamo' in sys.modules or not h.ShardedHead)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
