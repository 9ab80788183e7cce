"""Coverage-guided fuzzing of the Caffe readers: python fuzz_caffe.py FOLDER [libFuzzer options].

Stops at exceptions other than a WeightsError, at arrays larger than the file, and at inputs that take more than
5 seconds or 256 MiB.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["sfplus.weights.protobuf_reader", "sfplus.weights.caffe", "sfplus.weights.prototxt"]
):
    from sfplus.errors import WeightsError
    from sfplus.weights.caffe import read_caffemodel
    from sfplus.weights.loading import read_model
    from sfplus.weights.prototxt import read_prototxt

_FILE = Path("fuzzed.caffemodel")  # in the working folder


def read_all(data: bytes) -> None:
    """Read the same bytes as .caffemodel, as a model and as .prototxt."""
    _FILE.write_bytes(data)
    try:
        model = read_caffemodel(_FILE)
        assert sum(blob.nbytes for blobs in model.blobs.values() for blob in blobs) <= len(data)
        read_model(_FILE)
    except WeightsError as error:
        assert "\n" not in str(error)
    try:
        read_prototxt(_FILE)
    except WeightsError as error:
        assert "\n" not in str(error)


size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (256 << 20),) * 2)  # libFuzzer's own limit counts its parent's peak
atheris.Setup([*sys.argv, "-timeout=5", "-rss_limit_mb=0", "-max_len=4096"], read_all)
atheris.Fuzz()
