"""Writers of small collections for tests: RecordIO by its published format, JPEG crops, identity folders."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

MAGIC = bytes.fromhex("0a23d7ce")


def crop(seed: int, height: int = 12, width: int = 10) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def framed(data: bytes) -> bytes:
    """A record as dmlc-core writes it: split at each magic word that stands at a multiple of four."""
    cuts = [at for at in range(0, len(data) - 3, 4) if data[at : at + 4] == MAGIC]
    starts, ends = [0, *(at + 4 for at in cuts)], [*cuts, len(data)]
    out = b""
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        flag = 0 if not cuts else 1 if number == 0 else 3 if number == len(cuts) else 2
        part = data[start:end]
        out += MAGIC + struct.pack("<I", flag << 29 | len(part)) + part + b"\0" * (-len(part) % 4)
    return out


def labelled(labels: float | Sequence[float], picture: bytes = b"") -> bytes:
    """Header and picture, as mxnet.recordio.pack."""
    if isinstance(labels, int | float):
        return struct.pack("<IfQQ", 0, labels, 0, 0) + picture
    return struct.pack("<IfQQ", len(labels), 0, 0, 0) + struct.pack(f"<{len(labels)}f", *labels) + picture


def write_rec(path: Path, records: Sequence[bytes], index: bool = True) -> None:
    """A `.rec` of records numbered from 0, and its `.idx`."""
    parts = [framed(record) for record in records]
    path.write_bytes(b"".join(parts))
    if index:
        places = np.cumsum([0, *map(len, parts)])[:-1]
        path.with_suffix(".idx").write_text("".join(f"{i}\t{at}\n" for i, at in enumerate(places)))


def write_insightface(path: Path, people: Sequence[Sequence[bytes]], index: bool = True) -> None:
    """A training set as insightface's: the header, the pictures, then a record a person with its range."""
    pictures = [labelled(label, data) for label, person in enumerate(people) for data in person]
    bounds = np.cumsum([1, *map(len, people)])
    ranges = [labelled(list(map(float, bounds[i : i + 2]))) for i in range(len(people))]
    end = len(pictures) + 1
    write_rec(path, [labelled([float(end), float(end + len(people))]), *pictures, *ranges], index)


def write_folders(root: Path, people: dict[str, int], height: int = 12, width: int = 10) -> None:
    for seed, (person, count) in enumerate(people.items()):
        (root / person).mkdir(parents=True)
        for number in range(count):
            pixels = crop(100 * seed + number, height, width)
            (root / person / f"{number}.png").write_bytes(encoded(pixels))
