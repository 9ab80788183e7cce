"""Limits on processor time, which, unlike time on the clock, does not depend on other processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cpu_time_below(seconds: float) -> Iterator[None]:
    """Fail if the block takes more processor time, also if it raises."""
    start = time.process_time()
    try:
        yield
    finally:
        assert time.process_time() - start < seconds
