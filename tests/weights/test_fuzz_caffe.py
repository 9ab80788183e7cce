from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from models import network

from sfplus.weights.caffe import write_caffemodel
from sfplus.weights.caffe_networks import to_caffe
from sfplus.weights.prototxt import write_prototxt


@pytest.mark.slow
def test_the_fuzzer_finds_no_failure(tmp_path: Path) -> None:
    """Runs for twenty seconds, starting from a small network in both formats."""
    pytest.importorskip("atheris", reason="atheris, the fuzzer, is not installed (it has no wheels for every Python)")
    (tmp_path / "seeds").mkdir()
    deploy, model = to_caffe(network("sphereface4", 0.001, 1, batch_norm=True), "net")
    write_caffemodel(tmp_path / "seeds" / "binary", model)
    write_prototxt(tmp_path / "seeds" / "text", deploy)
    command = [sys.executable, Path(__file__).with_name("fuzz_caffe.py"), "seeds", "-max_total_time=20", "-seed=1"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr[-3000:]
    assert "Done " in process.stderr
