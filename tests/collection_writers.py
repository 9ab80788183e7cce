"""Write small photo collections for tests: RecordIO by its published format, and identity folders."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

MAGIC = bytes.fromhex("0a23d7ce")


def random_crop(seed: int, height: int = 12, width: int = 10) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(pixels: np.ndarray, image_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


def recordio_record(payload: bytes) -> bytes:
    """Return a record as dmlc-core writes it, split at each magic word at a multiple of four bytes."""
    splits = [at for at in range(0, len(payload) - 3, 4) if payload[at : at + 4] == MAGIC]
    starts, ends = [0, *(at + 4 for at in splits)], [*splits, len(payload)]
    record = b""
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        flag = 0 if not splits else 1 if number == 0 else 3 if number == len(splits) else 2
        part = payload[start:end]
        record += MAGIC + struct.pack("<I", flag << 29 | len(part)) + part + b"\0" * (-len(part) % 4)
    return record


def recordio_payload(labels: float | Sequence[float], image: bytes = b"") -> bytes:
    """Return the header and the image as `mxnet.recordio.pack` writes them."""
    if isinstance(labels, int | float):
        return struct.pack("<IfQQ", 0, labels, 0, 0) + image
    return struct.pack("<IfQQ", len(labels), 0, 0, 0) + struct.pack(f"<{len(labels)}f", *labels) + image


def write_rec(path: Path, payloads: Sequence[bytes], index: bool = True) -> None:
    """Write a `.rec` file of records numbered from 0, and its `.idx` file."""
    records = [recordio_record(payload) for payload in payloads]
    path.write_bytes(b"".join(records))
    if index:
        offsets = np.cumsum([0, *map(len, records)])[:-1]
        path.with_suffix(".idx").write_text("".join(f"{i}\t{offset}\n" for i, offset in enumerate(offsets)))


def write_insightface(path: Path, people: Sequence[Sequence[bytes]], index: bool = True) -> None:
    """Write a training set as insightface does: the header, the images, then one record per person with its range."""
    images = [recordio_payload(label, image) for label, person in enumerate(people) for image in person]
    bounds = np.cumsum([1, *map(len, people)])
    ranges = [recordio_payload(list(map(float, bounds[i : i + 2]))) for i in range(len(people))]
    end = len(images) + 1
    write_rec(path, [recordio_payload([float(end), float(end + len(people))]), *images, *ranges], index)


def write_folders(root: Path, people: dict[str, int], height: int = 12, width: int = 10) -> None:
    """Write identity folders with the given number of random crops per person."""
    for seed, (person, count) in enumerate(people.items()):
        (root / person).mkdir(parents=True)
        for number in range(count):
            pixels = random_crop(100 * seed + number, height, width)
            (root / person / f"{number}.png").write_bytes(encode(pixels))
