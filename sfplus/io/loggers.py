"""The loggers of the library's modules."""

from __future__ import annotations

import logging
from typing import Any

from sfplus.errors import one_line


class _OneLineLogger(logging.LoggerAdapter[logging.Logger]):
    """Logs each message on one line without control characters, whatever the names of photos and folders hold."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if self.isEnabledFor(level):
            text = one_line(str(msg) % args if args else str(msg))
            self.logger.log(level, "%s", text, **{"stacklevel": 2, **kwargs})


def get_logger(name: str) -> logging.LoggerAdapter[logging.Logger]:
    """Return the logger of a module: names in its messages neither forge lines nor break the encoding of a handler."""
    return _OneLineLogger(logging.getLogger(name))
