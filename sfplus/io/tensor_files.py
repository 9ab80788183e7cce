"""A check of .safetensors files before they are read. Importing this module does not import torch."""

from __future__ import annotations

from pathlib import Path

from sfplus.errors import SfplusError, explain_damage
from sfplus.io.files import file_size
from sfplus.io.limits import check_limit


def check_tensor_list(file: Path, error: type[SfplusError] = SfplusError) -> None:
    """Refuse a .safetensors file that is too large, or whose list of tensors alone would fill the memory.

    Args:
        file: the file.
        error: the class of the exception.

    Raises:
        SfplusError: If it is too large or cannot be opened; damage is left to the reader.
    """
    with explain_damage(file, remedy="get the file again", error=error):
        size = file_size(file)
        check_limit("weights_bytes", size, file, error=error)
        with file.open("rb") as data:
            length = int.from_bytes(data.read(8), "little")
        if length < size:
            check_limit("tensor_list_bytes", length, file, error=error)
