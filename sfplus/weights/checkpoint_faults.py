"""Short plain reasons why a file is no checkpoint that PyTorch can read safely."""

from __future__ import annotations

import os
import re
import tarfile
import zipfile
from pathlib import Path

from sfplus.io.download import is_page

_START = 1 << 20  # bytes; the pickle stands at the start of both formats
_END = 256  # bytes, longer than any name of a class
_AGAIN = "get the file again"
_STATE_DICT = "where you trust the file, save its state_dict() with torch.save"
_STARTS = (
    (b"version https://git-lfs", "it is a pointer of Git LFS, not the file", "get the file itself: git lfs pull"),
    (b"\x89HDF", "it is an HDF5 file, as Keras writes it", "convert it to ONNX"),
    (b"\x93NUMPY", "it is an array of NumPy", "give the weights of a network"),
    (b"\x1f\x8b", "it is compressed with gzip", "unpack it"),
    (b"7z\xbc\xaf", "it is a 7z archive", "unpack it"),
    (b"Rar!", "it is a rar archive", "unpack it"),
    (b"BZh", "it is compressed with bzip2", "unpack it"),
    (b"\xfd7zXZ", "it is compressed with xz", "unpack it"),
)


def explain_fault(path: Path, error: Exception) -> tuple[str, str]:
    """Return a short reason, without torch's advice, why `torch.load` did not read a file, and the remedy.

    Args:
        path: the file.
        error: what `torch.load` raised.
    """
    if reason := _explain_pickle(path, error):
        return f"contains no state dict that can be read without running code ({reason})", _STATE_DICT
    reason, remedy = _explain_format(path)
    return f"contains no state dict that can be read ({reason})", remedy


def unread_class(error: Exception) -> str:
    """Return the full name of the class that torch refused to read, or ""."""
    match = re.search(r"Unsupported global: GLOBAL (\S+) was not", str(error))
    name = match[1] if match else ""
    return name if "." in name or not name else f"builtins.{name}"


def _blocked_function(error: Exception) -> str:
    match = re.search(r"unsupported GLOBAL (\S+) whose module", str(error))
    return match[1] if match else ""


def _explain_pickle(path: Path, error: Exception) -> str:
    """Return what a file would run, or "" if the fault is another one."""
    blocked = _blocked_function(error)
    called = blocked or unread_class(error)
    with path.open("rb") as file:
        start = file.read(_START)
        file.seek(-min(_END, file.seek(0, os.SEEK_END)), os.SEEK_END)
        end = file.read()
    last = called.rpartition(".")[2].encode()  # torch cuts off a byte of a name in which the file ends
    if called and not end.endswith(last) and not end[:-1].endswith(last):
        kind = "a pickled network" if not blocked and b"torch.nn.modules" in start else "an object"
        return f"it has {kind} that needs {called}"
    if start[:1] == b"\x80" and not called and (start[1:2] not in (b"", b"\x02") or "magic number" in str(error)):
        return "it is a pickle of Python, not a file of torch.save"
    return ""


def _explain_format(path: Path) -> tuple[str, str]:
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        return str(error.strerror or "it cannot be opened"), "check the path"
    if not start:
        return "it is empty", _AGAIN
    if is_page(path):
        return "it is a web page", "open its address in a browser and download the file"
    for magic, reason, remedy in _STARTS:
        if start.startswith(magic):
            return reason, remedy
    if tarfile.is_tarfile(path):  # before zip, which may be at its end
        return "it is a tar archive", "unpack it"
    if zipfile.is_zipfile(path):
        return _explain_zip(path)
    if start.isascii() and start.decode("ascii").replace("\n", " ").replace("\r", " ").replace("\t", " ").isprintable():
        return "it is a text file", _AGAIN
    if start.startswith((b"PK", b"\x80")):  # of both formats of torch.save
        return "it is incomplete or damaged", _AGAIN
    return "it was not written by torch.save, or is damaged", _AGAIN


def _explain_zip(path: Path) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] or name for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError, ValueError):
        return "it is incomplete or damaged", _AGAIN
    if "constants.pkl" in names:
        return "it is a TorchScript file, which is a program", "give the state_dict() of its network"
    if "archive_format" in names:
        return "it is a file of torch.export, which is a program", "give the state_dict() of its network"
    if all(name.endswith(".npy") for name in names):
        return "it contains arrays of NumPy", "give the weights of a network"
    if "data.pkl" not in names:
        return "it is a zip archive without a checkpoint", "unpack it"
    return "it is incomplete or damaged", _AGAIN
