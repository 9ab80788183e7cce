"""Tar files of others: headers of any kind end in time, in little memory."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hostile_files import damaged, read_or_refuse

from sfplus.datasets.tar_files import tar_members
from sfplus.errors import DatasetError

FIELDS = {"name": (0, 100), "mode": (100, 108), "size": (124, 136), "mtime": (136, 148), "type": (156, 157),
          "link": (157, 257), "magic": (257, 265), "prefix": (345, 500)}  # fmt: skip
CONTENTS = (b"\xff", b"\0", b"9", b"\x80", b"-", b"7")


def header(name: bytes, size: int, kind: bytes = b"0") -> bytes:
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[124:136], block[136:148] = b"0000644\0", b"%011o\0" % size, b"0" * 11 + b"\0"
    block[156:157], block[257:265] = kind, b"ustar\x0000"
    return with_checksum(block)


def with_checksum(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(text: bytes) -> bytes:
    return header(b"h", len(text), b"x") + padded(text) + header(b"a/1.png", 3) + padded(b"abc") + bytes(1024)


def members(path: Path) -> list[tuple[str, bytes]]:
    return [(member.name, file.read(min(member.size, 1000))) for member, file in tar_members(path, "get it again")]


def write(path: Path, layout: int) -> bytes:
    with tarfile.open(path, "w", format=layout) as tar:
        for name in ("a/1.png", "a/2.png", f"{'b' * 150}/3.png", "\udcff/4.png"):
            if layout == tarfile.USTAR_FORMAT and len(name) > 100:
                continue
            member = tarfile.TarInfo(name)
            member.size = 700
            tar.addfile(member, io.BytesIO(b"x" * 700))
    return path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("layout", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_damaged_headers_are_one_line(tmp_path: Path, layout: int) -> None:
    path = tmp_path / "a.tar"
    data, refused, cases = write(path, layout), 0, list[bytes]()
    names = [name for name, _ in members(path)]
    assert names[:2] == ["a/1.png", "a/2.png"] and names[-1] == "\udcff/4.png"
    cases += damaged(data, 60, 30, layout)
    for start in range(0, len(data), 512):
        if data[start + 257 : start + 262] == b"ustar":
            for first, last in FIELDS.values():
                for content in CONTENTS:
                    block = bytearray(data[start : start + 512])
                    block[first:last] = (content + b"\xff" if content in b"\x80-" else content * 200)[
                        : last - first
                    ].ljust(last - first, b"\0")
                    cases.append(data[:start] + with_checksum(block) + data[start + 512 :])
    for case in cases:
        path.write_bytes(case)
        refused += read_or_refuse(lambda: members(path))
    assert len(cases) > 240 and refused > 30


PAX = {
    "digits": b"9" * 3_000_000, "digits in front of a key": b"1" * 5000 + b" path=a\n", "no length": b"0 a=b\n",
    "negative length": b"-5 a=b\n", "no value": b"8 abcde\n", "NUL": b"16 path=a\0b.png\n",
    "size of letters": b"16 size=abcdefg\n", "size below zero": b"14 size=-1024\n", "size of a float": b"12 size=1e9\n",
    "huge size": b"28 size=99999999999999999999\n"[:28], "time": b"13 mtime=nan\n", "infinite time": b"13 mtime=inf\n",
    "sparse map": b"23 GNU.sparse.map=a,b\n", "long sparse map": b"400019 GNU.sparse.map=" + b"0,0," * 100_000 + b"\n",
    "many keys": b"7 a=b \n" * 200_000, "keys in keys": b"2 " * 100_000 + b"=", "charset": b"21 hdrcharset=BINARY\n",
    "sparse file": b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", PAX)
def test_pax_headers_of_any_kind_end(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(pax(PAX[kind]))
    refused = read_or_refuse(lambda: members(path))
    if len(PAX[kind]) > 20_000:
        assert refused
        with pytest.raises(DatasetError, match=r"a\.tar: has [\d,]+ bytes, more than the limit of 16,384"):
            members(path)


CHAINS = {
    "pax headers": (header(b"h", 12, b"x") + padded(b"12 path=abc\n")) * 5000,
    "global headers": (header(b"h", 12, b"g") + padded(b"12 path=abc\n")) * 5000,
    "long names": (header(b"h", 12, b"L") + padded(b"abcdefghijk\n")) * 5000,
    "a name of 5 GB": header(b"h", 5 << 30, b"L") + bytes(2000),
    "a pax header of 5 GB": header(b"h", 5 << 30, b"x") + bytes(2000),
}


@pytest.mark.parametrize("kind", CHAINS)
def test_chains_and_huge_headers_are_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.tar").write_bytes(CHAINS[kind])
    with pytest.raises(DatasetError):
        members(tmp_path / "a.tar")
