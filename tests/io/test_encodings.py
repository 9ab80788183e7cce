"""Decoding of text in any common encoding."""

from __future__ import annotations

import pytest

from sfplus.io.encodings import decode

TEXT = "Zoë/1.jpg\r\nAda\n"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252"]
)
def test_text_of_any_common_encoding_is_decoded(encoding: str) -> None:
    assert decode(TEXT.encode(encoding)) == TEXT


@pytest.mark.parametrize(
    "data", [b"a\0b.jpg\0c.jpg\0", b"\x89PNG\r\n\x1a\n\0\0", b"\xff\xfe\0", b"\x1b[0m", b"x" * 500 + b"\0" + b"y" * 500]
)
def test_data_that_is_not_text_is_not_decoded(data: bytes) -> None:
    assert decode(data) is None
