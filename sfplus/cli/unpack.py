"""`sfplus unpack`: write the photos of an insightface `.bin` file as image files."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sfplus.alignment import narrow_crop
from sfplus.datasets.verification_bin import unpack_bin
from sfplus.images import encode_image, list_photos, read_photo
from sfplus.io.files import write_atomically


def unpack(path: Path, folder: Path, narrow: bool) -> int:
    """Write the photos of a `.bin` file into a folder, under the names that its pairs use.

    Args:
        path: the `.bin` file; no code in it is run.
        folder: the destination, which is created if it is missing.
        narrow: cut 112x112 crops to 112x96 and write PNG, for networks of this input size.

    Returns:
        The number of photos.

    Raises:
        PairsError: If the file is not a `.bin` file of insightface.
        PhotoError: If `narrow` is set and a photo is not 112x112 or cannot be decoded.
    """
    if not narrow:
        return unpack_bin(path, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        count = unpack_bin(path, Path(temporary))
        for name in list_photos(Path(temporary)):
            crop = narrow_crop(read_photo(Path(temporary) / name), f"{path}: photo {Path(name).stem}")
            write_atomically(folder / f"{Path(name).stem}.png", encode_image(crop, ".png"))
    return count
