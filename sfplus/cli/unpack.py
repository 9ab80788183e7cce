"""`sfplus unpack`: the photos of an insightface `.bin` as files, as they are or cut for the SphereFace networks."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from sfplus.datasets.verification_bin import unpack_bin
from sfplus.errors import PhotoError
from sfplus.images import Pixels, encode_image, list_photos, read_photo
from sfplus.io.files import write_atomically

_LEFT, _WIDTH = 8, 96  # the 112 x 96 template is the 112 x 112 one less 8 columns on each side


def unpack(path: Path, folder: Path, narrow: bool) -> int:
    """Write the photos of a `.bin` into a folder, called as pairs of this `.bin` call them.

    Args:
        path: the `.bin`; it is read without running any of it.
        folder: created where missing.
        narrow: cut 112 x 112 crops to 112 x 96 and write PNG, for networks of that input.

    Returns:
        The number of photos.

    Raises:
        PairsError: it is no such file.
        PhotoError: narrow, and a photo is not 112 x 112 or cannot be decoded.
    """
    if not narrow:
        return unpack_bin(path, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as whole:
        count = unpack_bin(path, Path(whole))
        for name in list_photos(Path(whole)):
            crop = narrowed(read_photo(Path(whole) / name), f"{path}: photo {Path(name).stem}")
            write_atomically(folder / f"{Path(name).stem}.png", encode_image(crop, ".png"))
    return count


def narrowed(crop: Pixels, name: str) -> Pixels:
    """The middle 112 x 96 of a 112 x 112 crop, uint8 (112, 96, 3): what its face has in the narrower template.

    Raises:
        PhotoError: the crop has another size.
    """
    if crop.shape[:2] != (112, 112):
        raise PhotoError(f"is {crop.shape[1]} x {crop.shape[0]}, not 112 x 112", where=name)
    return np.ascontiguousarray(crop[:, _LEFT : _LEFT + _WIDTH])
