"""Files of `torch.save`, in the current and the old format, whose tensors are loaded one by one.

Sizes in a file are compared with its bytes before memory is used for them, and only the tensors that are wanted are
loaded: not, for example, the state of an optimizer.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from sfplus.errors import WeightsError
from sfplus.io.files import file_size
from sfplus.io.limits import check_limit
from sfplus.weights.checkpoint_pickle import BlockedError, read_pickle
from sfplus.weights.checkpoint_tensors import Storage, StoredTensor

_MAGIC = 0x1950A86A20F9469CFC6C  # of the old format
_MAX_KEY = 100  # characters


class NotTorchError(Exception):
    """The file is a pickle that `torch.save` did not write."""


def check_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse an archive that is much larger once it is unpacked.

    Raises:
        WeightsError: If it has more members or bytes than the limits.
    """
    members = archive.infolist()
    check_limit("archive_members", len(members), path, error=WeightsError)
    added = sum(member.file_size for member in members) - file_size(path)
    check_limit("archive_expansion", max(added, 0), path, error=WeightsError)


class CheckpointFile:
    """A file of `torch.save`; `open_checkpoint` creates it.

    Attributes:
        content: the object in it, with `StoredTensor` for tensors.
    """

    def __init__(self, file: IO[bytes], archive: zipfile.ZipFile | None) -> None:
        self._file, self._archive = file, archive
        self._loaded: dict[str, Tensor] = {}
        self._places: dict[str, tuple[int, int]] = {}  # of the old format: offset and number of bytes
        self._prefix = ""
        self.content = self._read_old() if archive is None else self._read_archive(archive)

    def check(self, tensor: StoredTensor) -> None:
        """Check that the file has the numbers of a tensor, without reading them.

        Raises:
            ValueError: If it does not.
        """
        storage = tensor.storage
        if storage is None or (storage.start + storage.count) * storage.dtype.itemsize > self._find(storage)[1]:
            raise ValueError("a storage is shorter than its tensors")

    def load(self, tensor: StoredTensor) -> Tensor:
        """Load a tensor, which has been checked, onto the CPU; those of one storage share memory."""
        storage = tensor.storage
        assert storage is not None
        if storage.key not in self._loaded:
            member, size = self._find(storage)
            with self._open(member) as file:
                self._loaded[storage.key] = _read_bytes(file, size)
        start, size = storage.start * storage.dtype.itemsize, storage.count * storage.dtype.itemsize
        data = self._loaded[storage.key][start : start + size - size % tensor.dtype.itemsize].view(tensor.dtype)
        # `as_strided` counts from the start of the memory, not from that of a view of the storage.
        return data.as_strided(tensor.shape, tensor.strides, data.storage_offset() + tensor.offset)

    def _find(self, storage: Storage) -> tuple[Any, int]:
        """Return where a storage is, and its number of bytes."""
        try:
            if self._archive is None:
                return self._places[storage.key]
            member = self._archive.getinfo(f"{self._prefix}/data/{storage.key[:_MAX_KEY]}")
            return member, member.file_size
        except KeyError:
            raise ValueError("a storage is missing") from None

    def _open(self, storage: Any) -> Any:
        if self._archive is not None:
            return self._archive.open(storage)
        self._file.seek(storage)
        return nullcontext(self._file)

    def _read_archive(self, archive: zipfile.ZipFile) -> Any:
        names = [name for name in archive.namelist() if name.partition("/")[2] == "data.pkl"]
        if len(names) != 1:
            raise ValueError("there is no data.pkl")
        self._prefix = names[0].partition("/")[0]
        if f"{self._prefix}/constants.pkl" in archive.namelist():
            raise ValueError("it is a program")
        if f"{self._prefix}/byteorder" in archive.namelist():
            with archive.open(f"{self._prefix}/byteorder") as file:
                if file.read(9) == b"big":
                    raise ValueError("its numbers have the byte order of another machine")
        with archive.open(names[0]) as file:
            return read_pickle(file)

    def _read_old(self) -> Any:
        try:
            magic = read_pickle(self._file)
        except BlockedError:
            magic = None
        if magic != _MAGIC:
            raise NotTorchError
        for _ in range(2):  # version and sizes of numbers
            read_pickle(self._file)
        storages: dict[str, Storage] = {}
        content, keys = read_pickle(self._file, storages), read_pickle(self._file)
        for key in keys if isinstance(keys, list) else [None]:
            (count,) = struct.unpack("<q", self._file.read(8))
            if not isinstance(key, str) or count < 0 or key not in storages:
                raise ValueError("a storage has no tensor")
            offset, size = self._file.tell(), count * storages[key].dtype.itemsize
            if offset + size > self._file.seek(0, os.SEEK_END):
                raise ValueError("it ends too early")
            self._places[key] = (offset, size)
            self._file.seek(offset + size)
        return content


@contextmanager
def open_checkpoint(path: Path) -> Iterator[CheckpointFile]:
    """Open a file of `torch.save`, read without running code.

    Raises:
        BlockedError: If it has objects that only code can create.
        NotTorchError: If it is a pickle that `torch.save` did not write.
        ValueError: If it is damaged; so do OSError, EOFError, struct.error, zipfile.BadZipFile and zlib.error.
        WeightsError: If it is above a limit.
    """
    check_limit("weights_bytes", file_size(path), path, error=WeightsError)
    with path.open("rb") as file:
        start = file.read(2)
        file.seek(0)
        if start != b"PK":
            yield CheckpointFile(file, None)
            return
        with zipfile.ZipFile(file) as archive:
            check_archive(archive, path)
            _accept_missing_checksums(archive)
            yield CheckpointFile(file, archive)


def _accept_missing_checksums(archive: zipfile.ZipFile) -> None:
    """Let members be read for which torch stored no CRC-32 but 0 (`torch.serialization.set_crc32_options(False)`)."""
    for member in archive.infolist():
        if member.CRC == 0:
            member.CRC = None  # type: ignore[assignment]  # `zipfile` compares none then


def _read_bytes(file: IO[bytes], size: int) -> Tensor:
    data = torch.empty(size, dtype=torch.uint8)
    view, done = memoryview(data.numpy()), 0  # type: ignore[arg-type]
    while done < size:
        if not (count := file.readinto(view[done : done + (1 << 24)])):  # type: ignore[attr-defined]
            raise ValueError("it ends too early")
        done += count
    return data
