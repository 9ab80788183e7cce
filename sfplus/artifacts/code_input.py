"""Code of the user's own as an input of stages: its source counts."""

from __future__ import annotations

from functools import cached_property

from sfplus.artifacts.inputs import UserInput
from sfplus.io.import_path import find_sources, source_digest


class CodeInput(UserInput):
    """Code of the user's own; its content is its source files, which are read, not run (see `io.import_path`).

    Args:
        path: `package.module:name`.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    @cached_property
    def content(self) -> str:
        """SHA-256 over the files of `find_sources`.

        Raises:
            UsageError: If there is no such module, or it cannot be read.
        """
        self.see(*find_sources(self.path).values())
        return source_digest(self.path)

    def describe(self) -> str:
        """Return the import path."""
        return self.path
