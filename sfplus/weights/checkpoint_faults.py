"""Short plain reasons why a file is no checkpoint that PyTorch can read safely."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

from sfplus.io.download import is_page

_START = 1 << 20  # bytes; the pickle stands at the start of both formats
_MAX_NAME = 80  # characters of a class
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


def explain_blocked(path: Path, name: str) -> tuple[str, str]:
    """Return a short reason why a file would run code, and the remedy.

    Args:
        path: the file.
        name: the full name of the function or class that it would call.
    """
    with path.open("rb") as file:
        kind = "a pickled network" if b"torch.nn.modules" in file.read(_START) else "an object"
    reason = f"it has {kind} that needs {name[:_MAX_NAME]}"
    return f"contains no state dict that can be read without running code ({reason})", _STATE_DICT


def explain_damaged(path: Path, *, is_pickle: bool) -> tuple[str, str]:
    """Return a short reason why a file is no checkpoint, and the remedy.

    Args:
        path: the file.
        is_pickle: whether it is a pickle that torch did not write.
    """
    if is_pickle:
        reason = "it is a pickle of Python, not a file of torch.save"
        return f"contains no state dict that can be read without running code ({reason})", _STATE_DICT
    reason, remedy = _explain_format(path)
    return f"contains no state dict that can be read ({reason})", remedy


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
