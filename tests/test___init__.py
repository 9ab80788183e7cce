"""The package imports torch only when it is needed."""

import subprocess
import sys


def test_torch_is_imported_with_the_first_public_name() -> None:
    code = "import sys, sfplus; assert 'torch' not in sys.modules; sfplus.Detector; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
