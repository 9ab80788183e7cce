"""Checkpoints of a few bytes that would take all memory or run for ever; and the old forms of the format."""

from __future__ import annotations

import io
import pickle
import struct
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from cpu_time import cpu_time_below
from hostile_files import memory_below
from slow_cases import partly_slow

from sfplus.errors import WeightsError
from sfplus.weights.loading import read_model
from sfplus.weights.state_dicts import read_state_dict

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    data = value.to_bytes(8, "little")
    return b"\x8a\x08" + data


def put(index: int) -> bytes:
    return b"r" + struct.pack("<I", index)


def get(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


def tensor(count: int, shape: bytes = b"", strides: bytes = b"K\x01\x85", kind: str = "FloatStorage") -> bytes:
    """Return the instructions of a tensor of storage 0 with `count` numbers."""
    reference = b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text("0") + text("cpu") + number(count)
    sizes = shape or number(count) + b"\x85"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + b"tQK\x00" + sizes + strides + b"\x89}tR"


def archive(content: bytes, data: bytes = b"", method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("x/data.pkl", b"\x80\x02" + content + b".")
        file.writestr("x/data/0", data)
    return buffer.getvalue()


def doubled(count: int) -> bytes:
    """Return the instructions of a tuple of 2 ** count elements, which is hashed in as many steps."""
    return b")" + put(0) + b"".join(get(i) + b"\x86" + put(i + 1) for i in range(count))


def nested_mappings(width: int) -> bytes:
    """Return mappings in mappings, four levels of the same one many times."""
    inner = b"}" + text("w") + b"Ns" + put(0)
    for level in range(4):
        items = b"".join(text(f"k{i}") + get(level) for i in range(width))
        inner += b"}(" + items + b"u" + put(level + 1)
    return inner


def old(count: int, data: bytes, stated: int | None = None) -> bytes:
    content = b"\x80\x02}" + text("w") + tensor(count) + b"s."
    stated = count if stated is None else stated
    return MAGIC + content + pickle.dumps(["0"], 2) + struct.pack("<q", stated) + data


def called(name: str, arguments: bytes) -> bytes:
    return archive(b"c" + name.replace(".", "\n", 1).encode() + b"\n" + arguments + b"R")


GB = 1 << 30
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "tuple of 2**60 as a key": (lambda: archive(b"}" + doubled(60) + text("v") + b"s"), "contains no state dict"),
    "tuple of 2**60 in a set": (lambda: called("builtins.set", b"]" + doubled(60) + b"a\x85"), "no state dict"),
    "tuple of 2**60 called": (lambda: archive(doubled(60) + b")R"), "incomplete or damaged"),
    "tuple of 2**60 in a Counter": (
        lambda: called("collections.Counter", b"]" + doubled(60) + b"a\x85"), "contains no state dict"
    ),
    "mappings": (lambda: archive(nested_mappings(120)), "damaged"),
    "deep lists": (lambda: archive(b"]" * 200_000 + b"a" * 199_999), "contains no state dict"),
    "deep mappings": (
        lambda: archive((b"}" + text("model")) * 50_000 + b"}" + b"s" * 50_000), "contains no state dict"
    ),
    **{
        f"{name} of 8 GB": (
            lambda name=name: called(name, number(2 * GB) + b"\x85"), "contains no state dict|needs"  # type: ignore[misc]
        )
        for name in ("torch.FloatTensor", "torch.FloatStorage", "torch.storage.UntypedStorage", "builtins.bytearray",
                     "builtins.bytes", "torch.Size", "builtins.range", "numpy.ndarray", "torch.empty")
    },
    "storage of 8 GB": (lambda: archive(b"}" + text("w") + tensor(2 * GB) + b"s", b"1234"), "damaged"),
    "storage of 8 GB, old format": (lambda: old(2 * GB, b"1234"), "damaged"),
    "storage of 8 GB, stated once": (lambda: old(2 * GB, b"1234", 1), "damaged"),
    "storage of 2**62, old format": (lambda: old(1, b"1234", 1 << 62), "damaged"),
    "storage of -1": (lambda: old(1, b"1234", -1), "damaged"),
    "shape beyond the storage": (lambda: archive(b"}" + text("w") + tensor(1, number(99) + b"\x85") + b"s", b"1234"),
                                 "damaged"),
    "shape of -1": (lambda: archive(b"}" + text("w") + tensor(1, b"J\xff\xff\xff\xff\x85") + b"s", b"1234"), "damaged"),
    "shape of texts": (lambda: archive(b"}" + text("w") + tensor(1, text("a") + b"\x85") + b"s", b"1234"), "damaged"),
    "shape of 2**60": (
        lambda: archive(b"}" + text("w") + tensor(1, number(1 << 60) + b"\x85", b"K\0\x85") + b"s", b"1234"), "damaged"
    ),
    "expanded to 4 GB": (
        lambda: archive(b"}" + text("w") + tensor(1, number(GB) + b"\x85", b"K\x00\x85") + b"s", b"1234"),
        "not stored completely",
    ),
    "one storage 999 times": (
        lambda: archive(
            b"}" + b"".join(text(f"w{i}") + tensor(1 << 18) + b"s" for i in range(999)), bytes(1 << 20)
        ), "more than the limit of 20,000,000"
    ),
    "compressed 1:1000": (
        lambda: archive(b"}" + text("w") + tensor(7 << 20) + b"s", bytes(30 << 20), zipfile.ZIP_DEFLATED),
        "bytes, more than the limit of 20,000,000"
    ),
    "many instructions": (lambda: archive(b"]" + b"K\x01a" * 2_000_000), "damaged"),
    "integer of 100,000 digits": (lambda: archive(b"I" + b"9" * 100_000 + b"\n"), "damaged"),
    "integer of 4 MB": (lambda: archive(b"\x8b" + struct.pack("<i", 4 << 20) + b"\x7f" * (4 << 20)), "no state dict"),
    "long names": (lambda: archive(b"}" + text("w" * 200_000) + b"Ns"), "contains no state dict"),
    "long class": (lambda: archive(b"cos\n" + b"x" * 200_000 + b"\n"), "needs os.xxx"),
    "escape codes": (lambda: archive(b"cos\n\x1b[2J\x07\n"), "needs os"),
    "two state dicts of long names": (
        lambda: archive(b"}" + b"".join(text(c * 9_999) + b"}" + text("w") + tensor(1) + b"ss" for c in "ab"), b"1234"),
        "several state dicts",
    ),
    "surrogates": (lambda: archive(b"}X\x03\x00\x00\x00\xed\xa0\x80Ns"), "contains no state dict"),
}  # fmt: skip


@pytest.mark.parametrize("name", partly_slow(HOSTILE, ["mappings", "deep lists", "many instructions"]))
def test_hostile_checkpoints_are_one_line_without_time_and_memory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, message = HOSTILE[name]
    monkeypatch.setenv("SFPLUS_MAX_PICKLE_INSTRUCTIONS", "500000")  # the default takes seconds
    monkeypatch.setenv("SFPLUS_MAX_ARCHIVE_EXPANSION", "20000000")
    path = tmp_path / "x.pth"
    path.write_bytes(make())
    with memory_below(300), cpu_time_below(5), pytest.raises(WeightsError, match=message) as caught:
        read_state_dict(path)
    error = str(caught.value)
    assert error.isprintable() and len(error.removeprefix(str(path))) < 500


def test_each_changed_byte_is_refused_or_read(tmp_path: Path) -> None:
    """No other exception than the one of sfplus leaves the reader."""
    small = {"a.weight": torch.ones(2, 2), "b": torch.zeros(3, dtype=torch.int64)}
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save(small, buffer, _use_new_zipfile_serialization=zipped)
        data = bytearray(buffer.getvalue())
        start = data.find(b"data.pkl") if zipped else 0
        for position in range(start, min(start + 700, len(data)), 9):
            for value in (0, 0x52, 0xFF):
                changed = data.copy()
                changed[position] = value
                (tmp_path / "x.pth").write_bytes(changed)
                try:
                    read_state_dict(tmp_path / "x.pth")
                except WeightsError as error:
                    assert str(error).isprintable()


def test_the_state_of_an_optimizer_is_not_loaded(tmp_path: Path) -> None:
    """A checkpoint of training is several times as large as its network."""
    state = {"w": torch.ones(1000, 1000)}
    torch.save({"state_dict": state, "other": {"x": [torch.ones(8000, 1000)]}}, tmp_path / "x.pth")
    assert torch.equal(read_state_dict(tmp_path / "x.pth")["w"], state["w"])
    times: list[list[float]] = [[], []]
    for _ in range(3):  # the shortest time is the one without other work of the machine
        for read, seconds in zip((read_state_dict, partial(torch.load, weights_only=True)), times, strict=True):
            started = time.perf_counter()
            read(tmp_path / "x.pth")
            seconds.append(time.perf_counter() - started)
    assert min(times[0]) < 2 * min(times[1])


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8,
              torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool, torch.complex64, torch.uint16],
)  # fmt: skip
@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_of_every_type_are_those_of_torch(dtype: torch.dtype, zipped: bool, tmp_path: Path) -> None:
    base = torch.arange(24).reshape(2, 3, 4).to(dtype)
    content = {"whole": base, "view": base[1, 1:].T, "empty": base[:0], "scalar": base[0, 0, 1], "row": base[:, 2]}
    content["parameter"] = torch.nn.Parameter(base.clone(), requires_grad=False)
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    tensors = read_state_dict(tmp_path / "x.pth")
    assert list(tensors) == list(content)
    for name, expected in content.items():
        assert tensors[name].dtype == dtype and tensors[name].shape == expected.shape
        assert torch.equal(tensors[name].view(torch.uint8) if dtype.itemsize == 1 else tensors[name],
                           expected.data.view(torch.uint8) if dtype.itemsize == 1 else expected.data)  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*is a program")
@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_archives_of_programs_are_not_larger_unpacked(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFPLUS_MAX_ARCHIVE_EXPANSION", "20000000")
    with zipfile.ZipFile(tmp_path / f"x{suffix}", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/code/a.py", bytes(30 << 20))
    with pytest.raises(WeightsError, match="bytes, more than the limit of 20,000,000"):
        read_model(tmp_path / f"x{suffix}", input="insightface")


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".gz", ".h5", ".txt"])
def test_other_formats_are_not_opened(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"x{suffix}").write_bytes(b"\x93NUMPY")
    with pytest.raises(Exception, match="has a format that cannot be read; give a folder"):
        read_model(tmp_path / f"x{suffix}")


class _Storages(pickle.Pickler):
    def persistent_id(self, value: object) -> object:
        return value if isinstance(value, tuple) and value and value[0] == "storage" else None


class _Rebuilt:
    def __init__(self, *arguments: object) -> None:
        self._arguments = arguments

    def __reduce__(self) -> object:
        return torch._utils._rebuild_tensor_v2, (*self._arguments, False, OrderedDict())


def test_views_of_a_storage_in_old_files_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    """`torch.save` wrote them before version 0.4."""
    buffer, view = io.BytesIO(), ("8", 4, 6)  # its key, its start and its size
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(value, buffer, 2)
    storage = ("storage", torch.FloatStorage, "7", "cpu", 12)
    _Storages(buffer, 2).dump({"all": _Rebuilt((*storage, None), 0, (12,), (1,)),
                               "part": _Rebuilt((*storage, view), 0, (2, 3), (3, 1))})  # fmt: skip
    pickle.dump(["7"], buffer, 2)
    path = tmp_path / "x.pth"
    path.write_bytes(buffer.getvalue() + struct.pack("<q", 12) + torch.arange(12.0).numpy().tobytes())
    expected = torch.load(path, weights_only=True)
    assert expected["part"].tolist() == [[4, 5, 6], [7, 8, 9]]
    tensors = read_state_dict(path)
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
