"""The package imports torch only when it is needed, and torch's compiler not at all."""

import subprocess
import sys


def test_torch_is_imported_with_the_first_public_name_and_never_its_compiler() -> None:
    code = """
import sys, sfplus
assert "torch" not in sys.modules
sfplus.Detector, sfplus.Embedder
assert "torch" in sys.modules
import sfplus.hypersphere
assert "torch._dynamo" not in sys.modules
assert sfplus.hypersphere.ShardedHead
"""
    subprocess.run([sys.executable, "-c", code], check=True)
