"""Silence for the warnings of Pillow while sfplus decodes a photo: what matters is whether the photo can be used."""

from __future__ import annotations

import contextlib
import threading
import warnings
from typing import Any


class _DecodingThread(threading.local):
    """Matches the name of any module in a thread that decodes a photo, and none in others."""

    depth = 0
    pattern = "(?!)"  # scikit-learn copies `warnings.filters` to its workers, as texts and as pickles

    def match(self, _: str) -> bool:
        return self.depth > 0

    def __reduce__(self) -> str:
        return "_thread"


_thread = _DecodingThread()
# An entry of `warnings.filters`, whose `match` Python calls with the name of the module that warns.
_FILTER: Any = ("ignore", None, Warning, _thread, 0)


class IgnoredWarnings:
    """A context in which the warnings of its thread are ignored; those of other threads are shown as before.

    `warnings.catch_warnings` would replace the filters of all threads, and leave wrong ones behind when two threads use
    it at the same time. Here one filter is added, which matches nothing outside of such a context.
    """

    def __enter__(self) -> None:
        filters: list[Any] = warnings.filters  # type: ignore[assignment]
        if not (filters and filters[0] is _FILTER):  # not there yet, or behind the filters of the program
            with contextlib.suppress(ValueError):
                filters.remove(_FILTER)
            filters.insert(0, _FILTER)
        _thread.depth += 1

    def __exit__(self, *_: object) -> None:
        _thread.depth -= 1
