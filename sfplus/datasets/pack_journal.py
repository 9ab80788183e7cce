"""The journal of a pack that is being written, from which an interrupted run continues."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import AfterValidator, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from sfplus.datasets.formats import pack
from sfplus.errors import SfplusError, explain_damage
from sfplus.io.json_files import parse_json
from sfplus.io.tables import Failure

JOURNAL = "journal.jsonl"
_LARGEST_BLOCK = 1 << 28  # bytes of a line of the journal


def _check_utf8(value: str) -> str:
    value.encode()
    return value


_Utf8 = Annotated[str, AfterValidator(_check_utf8)]


@with_config(ConfigDict(strict=True))
class Block(TypedDict):
    """A block of crops whose pixels are safe on the disk."""

    names: list[_Utf8]
    people: list[_Utf8]
    sums: list[Annotated[int, Field(ge=0, lt=1 << 32)]]
    failures: list[Failure]
    size: Annotated[list[Annotated[int, Field(ge=1, le=1 << 16)]], Field(max_length=2)]  # none without a crop
    next: Annotated[int, Field(ge=1)]
    sha256: str


@with_config(ConfigDict(strict=True))
class _Line(TypedDict):
    block: Block
    crc32: int


def journal_line(block: Block) -> str:
    """Return a line of the journal: a block, and a checksum by which a changed line is recognised."""
    return json.dumps({"block": block, "crc32": _checksum(block)}) + "\n"


def _checksum(block: Block) -> int:
    return zlib.crc32(json.dumps(block, sort_keys=True).encode())


def new_block() -> Block:
    """Return an empty block."""
    return {"names": [], "people": [], "sums": [], "failures": [], "size": [], "next": 1, "sha256": ""}


def read_journal(folder: Path, count: int) -> list[Block]:
    """Return the blocks from which an interrupted run continues, and cut off all pixels behind them.

    Those are the first lines of the journal that fit to one another and to the pixels, all of which are read; what a
    kill, a power cut or somebody else changed behind them is packed again.

    Args:
        folder: of the unfinished pack.
        count: the number of records of the collection.

    Raises:
        SfplusError: If the files cannot be read or written.
    """
    remedy = f"delete {folder} and run again"
    blocks = list_blocks(folder, count)
    with explain_damage(folder / pack.PIXELS, remedy=remedy), (folder / pack.PIXELS).open("a+b") as pixels:
        pixels.seek(0)
        valid = list(takewhile(partial(_is_next, pixels), blocks))
        pixels.truncate(sum(map(_size, valid)))
    return valid


def list_blocks(folder: Path, count: int) -> list[Block]:
    """Return the blocks that the journal lists, without reading pixels; see `read_journal`."""
    blocks: list[Block] = []
    remedy = f"delete {folder} and run again"
    with explain_damage(folder / JOURNAL, remedy=remedy), (folder / JOURNAL).open("a+b") as file:
        file.seek(0)
        while line := file.readline(_LARGEST_BLOCK):
            try:
                entry = parse_json(line, _Line, where=folder / JOURNAL, remedy=remedy)
            except SfplusError:
                break
            block, is_complete = entry["block"], line.endswith(b"\n") and entry["crc32"] == _checksum(entry["block"])
            if not is_complete or not _follows(block, blocks, count):
                break
            blocks.append(block)
    return blocks


def _follows(block: Block, blocks: list[Block], count: int) -> bool:
    """Return True if a block can follow others."""
    crops = len(block["names"])
    fits = crops == len(block["people"]) == len(block["sums"]) and crops <= pack.BLOCK and block["next"] <= count
    if len(block["size"]) != 2:  # no crop was usable so far
        fits = fits and not crops and not block["size"]
    if blocks:
        last = blocks[-1]
        fits = (
            fits and len(last["names"]) == pack.BLOCK and last["size"] == block["size"] and last["next"] < block["next"]
        )
    return fits


def _size(block: Block) -> int:
    """Return the bytes of the pixels of a block."""
    return len(block["names"]) * 3 * math.prod(block["size"] or [0])


def _is_next(pixels: BinaryIO, block: Block) -> bool:
    """Return True if the next pixels of the file are those of a block."""
    data = pixels.read(_size(block))
    return len(data) == _size(block) and hashlib.sha256(data).hexdigest() == block["sha256"]
