"""`sfplus app`: a local page that compares the faces of two photos. Nothing is kept, nothing is sent anywhere.

Photos are handed over as pixels in memory where the page allows it; what the page's server writes for an upload lies in
a folder of this run, from which each file is deleted as soon as it is read, and which goes when the server stops.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfplus.errors import DependencyError, SfplusError, UsageError
from sfplus.judge import Judge, similarity

MAX_BYTES, MAX_PIXELS = 20 * 2**20, 40_000_000  # of one photo
_SIDE = 900  # the longer side of a photo as it is shown
_FARS = ("threshold of the verification", "0.1", "0.01", "0.001")
_QUIET = {  # before gradio is imported: no analytics, no look for a newer version, no fonts from elsewhere
    "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1",
    "GRADIO_SHARE": "False", "GRADIO_SSR_MODE": "False",
}  # fmt: skip
