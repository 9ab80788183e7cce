"""Text in any common encoding."""

from __future__ import annotations

import codecs
import re

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")


def decode(data: bytes) -> str | None:
    """Decode a text, or return None if it is not text.

    Args:
        data: UTF-8, UTF-16 or UTF-32 with or without a byte order mark (UTF-32 needs it), or else Windows-1252, which
            Latin-1 is read as.
    """
    marked = next((name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), "")
    zeros = data[:400].count(0)
    for encoding in (marked, "utf-8") if marked or not zeros else ("utf-16-le", "utf-16-be"):
        try:
            text = data.decode(encoding) if encoding else ""
        except UnicodeDecodeError:
            continue
        if encoding and not _CONTROL.search(text) and (not encoding.startswith("utf-16-") or _is_likely(text)):
            return text
    if marked or zeros:
        return None
    text = data.decode("cp1252", "replace").replace("\ufffd", "?")
    return None if _CONTROL.search(text) else text


def _is_likely(text: str) -> bool:
    """Return True if most characters are ASCII, which they are not when UTF-16 is read in the wrong byte order."""
    return sum(character.isascii() for character in text[:400]) > len(text[:400]) / 2
