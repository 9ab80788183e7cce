"""Damaged copies of files for tests, the same in each run, and the check that damage is one line."""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from sfplus.errors import SfplusError

WRONG_VALUES: tuple[object, ...] = (
    None, True, -1, 0, 2**31, 2**63, 10**400, 1.5, float("nan"), float("inf"), "", "x", "5", "\ud800", "a\n\x1b[31m",
    [], [1], ["x"], [[]], {}, {"a": 1}, [None] * 5,
)  # fmt: skip
"""Values of JSON that take the place of a right one."""
DELETED = "DELETED"


def damaged(data: bytes, flips: int = 60, cuts: int = 30, seed: int = 0) -> Iterator[bytes]:
    """Yield copies of a file that are cut short, changed in a few bytes, repeated, or nothing but NUL."""
    rng, size = random.Random(seed), len(data)
    ends = {0, 1, 4, 7, 8, 12, 16, size // 2, size - 1, size - 4, size - 8, *(rng.randrange(size) for _ in range(cuts))}
    yield from (data[:end] for end in sorted(ends) if 0 <= end < size)
    for number in range(flips):
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            near = rng.randrange(min(size, 400))  # headers are at the beginning or at the end
            at = rng.choice((near, size - 1 - near)) if number % 2 else rng.randrange(size)
            changed[at] = rng.choice((0, 1, 127, 255, changed[at] ^ 1 << rng.randrange(8), rng.randrange(256)))
        yield bytes(changed)
    yield from (data + data, bytes(size), data + b"\xff" * 100)


def read_or_refuse(read: Callable[[], object]) -> bool:
    """Return True if `read` raises an error of sfplus, on one short line; any other exception fails the test."""
    try:
        read()
    except SfplusError as error:
        assert "\n" not in str(error) and "\x1b" not in str(error) and 0 < len(str(error)) < 1200, str(error)
        return True
    return False


def not_utf8(count: int) -> pa.Array:
    """Return an Arrow array of texts that are not UTF-8, which pyarrow itself refuses to make."""
    offsets = struct.pack(f"<{count + 1}i", *range(0, 2 * count + 2, 2))
    return pa.Array.from_buffers(pa.string(), count, [None, pa.py_buffer(offsets), pa.py_buffer(b"\xff\xfe" * count)])


def json_paths(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of a value of JSON, and of all values in it: the keys and positions that lead there."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from json_paths(value[key], (*path, key))


def with_value(data: Any, path: tuple[Any, ...], value: object) -> Any:
    """Return a copy of data for JSON in which a value is replaced, or `DELETED`."""
    if not path:
        return value
    data = parent = copy.deepcopy(data)
    for key in path[:-1]:
        parent = parent[key]
    if value == DELETED:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return data


@contextmanager
def memory_below(megabytes: int) -> Iterator[None]:
    """Check that the peak memory of the block is not more than this above the memory before it; on Linux only."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    except OSError:
        yield
        return
    before = _memory("VmRSS")
    yield
    assert _memory("VmHWM") - before < megabytes << 10


def _memory(name: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])
