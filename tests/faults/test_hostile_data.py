"""Small data files that would take gigabytes or hours end in one line each and in little memory."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

# Runs commands, one in each line of its input, and prints the exit code and the growth of the memory after each, in MB.
_COMMANDS = """
import sys
from sfplus.__main__ import main
import scipy.sparse
from sfplus.image_tasks import datasets
from sfplus.cli import pack, overlap, unpack, verify
def peak():  # of this program; ru_maxrss would start with the peak of the program that started it
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1024
start = peak()
for line in sys.stdin.read().splitlines():
    command, *arguments = line.split("\\t")
    sys.argv = ["sfplus", command, *arguments]
    try:
        if command == "mnist":
            from pathlib import Path
            datasets.load_small_images("mnist", Path(arguments[0]), "train")
        else:
            main()
        code = 0
    except SystemExit as stop:
        code = stop.code
    except Exception as error:
        print("sfplus:", error, file=sys.stderr)
        code = 1
    print("RESULT", code, peak() - start, flush=True)
"""
_LARGEST = 300  # MB that a command may take more


def _write_zeros(path: Path, gigabytes: int, start: bytes) -> None:
    """Write a gzip file of members of 64 MiB of zeros each."""
    member = gzip.compress(bytes(64 << 20), 1)
    path.write_bytes(gzip.compress(start) + member * (gigabytes * 16))


def _tar_header(name: bytes, size: int, kind: bytes) -> bytes:
    block = bytearray(512)
    block[: len(name)], block[100:108], block[124:136] = name, b"0000644\0", b"%011o\0" % size
    block[156:157], block[257:265], block[148:156] = kind, b"ustar\x0000", b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _cases(folder: Path) -> Iterator[tuple[str, int]]:
    """Write each file, and yield the command that reads it and its exit code."""
    photo = b"\xff\xd8\xff" + os.urandom(1 << 20)
    (folder / "aliased.bin").write_bytes(pickle.dumps(([photo] * 200_000, [True] * 100_000), 4))
    yield f"unpack\t{folder}/aliased.bin\t{folder}/unpacked", 0
    (folder / "doubled.bin").write_bytes(
        b"\x80\x04)" + b"".join(b"\x94h" + bytes([number]) + b"\x86" for number in range(100)) + b"."
    )
    yield f"unpack\t{folder}/doubled.bin\t{folder}/unpacked", 1

    for name, sides in (("few", (5, 4, 4)), ("many", (8 << 20, 32, 32))):
        (folder / name).mkdir()
        header = bytes((0, 0, 8, 3)) + struct.pack(">III", *sides)
        _write_zeros(folder / name / "train-images-idx3-ubyte.gz", 8, header)
        (folder / name / "train-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1)) + struct.pack(">I", 5) + bytes(5))
        yield f"mnist\t{folder}/{name}", 1

    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (163840, 512), }\n"
    with zipfile.ZipFile(folder / "zeros.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("names.npy", b"")
        with archive.open("features.npy", "w", force_zip64=True) as member:
            member.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
            for _ in range(5):
                member.write(bytes(64 << 20))
    (folder / "pairs.txt").write_text("a/1.jpg a/2.jpg 1\na/1.jpg b/1.jpg 0\n" * 4)
    yield f"verify\t--features\t{folder}/zeros.npz\t--pairs\t{folder}/pairs.txt", 1

    many = 18_000_000
    lists = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(many, np.float32)), many)
    pq.write_table(pa.table({"name": ["a/1.jpg"], "features": lists}), folder / "list.parquet", compression="zstd")
    yield f"verify\t--features\t{folder}/list.parquet\t--pairs\t{folder}/pairs.txt", 1
    texts = pa.DictionaryArray.from_arrays(np.zeros(5000, np.int32), ["a" * 1_000_000])
    pq.write_table(pa.table({"name": texts, "x": np.ones(5000)}), folder / "texts.parquet", compression="zstd")
    yield f"verify\t--features\t{folder}/texts.parquet\t--pairs\t{folder}/pairs.txt", 1

    junk = pa.StructArray.from_arrays(
        [pa.array([b"x"]), pa.ListArray.from_arrays([0, many], np.zeros(many))], ["bytes", "a"]
    )
    pq.write_table(pa.table({"image": junk, "label": [0]}), folder / "images.parquet", compression="zstd")
    yield f"pack\t{folder}/images.parquet\t{folder}/images.pack", 1
    rows = {"image": pa.nulls(many // 4, pa.binary()), "label": pa.nulls(many // 4, pa.int64())}
    pq.write_table(pa.table(rows), folder / "rows.parquet", compression="zstd")
    yield f"pack\t{folder}/rows.parquet\t{folder}/rows.pack", 1

    for name, kind in (("pax", b"x"), ("names", b"L")):
        with (folder / f"{name}.tar").open("wb") as file:
            file.write(_tar_header(b"h", 3 << 30, kind) + b"1" * 1_000_000)
            file.truncate(4 << 30)  # takes no space on the disk
        yield f"pack\t{folder}/{name}.tar\t{folder}/{name}.pack", 1

    record = (
        bytes.fromhex("0a23d7ce")
        + struct.pack("<I", 20 << 20)
        + struct.pack("<IfQQ", 0, 1, 0, 0)
        + bytes((20 << 20) - 24)
    )
    (folder / "one.rec").write_bytes(record)
    (folder / "one.idx").write_text("".join(f"{number}\t0\n" for number in range(20_000)))
    yield f"pack\t{folder}/one.rec\t{folder}/one.pack", 1


def test_small_files_that_expand_take_little_memory(tmp_path: Path) -> None:
    cases = list(_cases(tmp_path))
    environment = os.environ | {"MALLOC_ARENA_MAX": "2"}
    child = subprocess.run(
        [sys.executable, "-c", _COMMANDS], input="\n".join(command for command, _ in cases),
        capture_output=True, text=True, check=False, env=environment, timeout=600,
    )  # fmt: skip
    results = [line.split()[1:] for line in child.stdout.splitlines() if line.startswith("RESULT")]
    messages = [line for line in child.stderr.splitlines() if line.startswith("sfplus: ")]
    assert "Traceback" not in child.stderr and "mistake in sfplus" not in child.stderr, child.stderr
    assert [int(code) for code, _ in results] == [code for _, code in cases], child.stderr
    assert len(messages) == sum(code for _, code in cases)
    growth = [int(megabytes) for _, megabytes in results]
    assert max(growth) < _LARGEST, list(zip(growth, cases, strict=True))
