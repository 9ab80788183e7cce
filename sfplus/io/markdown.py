"""Text in Markdown that is shown as it is."""

from __future__ import annotations

import re

from sfplus.errors import one_line

# What is no text at the start of a line: an item of a list, a rule, the underline of a heading.
_LINE_STARTS = re.compile(r"^(\s*)(\d*)(?=[-+](?:\s|$)|[-=][-=\s]*$|(?<=\d)[.)](?:\s|$))")


def escape_markdown(text: object) -> str:
    """Escape text, so that nothing in it becomes a heading, a link, a cell of a table or HTML."""
    return _LINE_STARTS.sub(r"\1\2\\", re.sub(r"([\\`*_\[\]<>|#~&$])", r"\\\1", one_line(text)))
