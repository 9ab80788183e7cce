"""Write the crops of an insightface verification set as files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from sfplus.datasets.verification_bin import unpack_bin
from sfplus.errors import PhotoError
from sfplus.images import Pixels, encode_image, list_photos, read_photo
from sfplus.io.files import write_atomically

app = typer.Typer()

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


@app.command("unpack")
def unpack_command(
    file: Annotated[Path, typer.Argument(metavar="FILE.bin", help="lfw.bin, agedb_30.bin, ... of insightface.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder for the photos.")],
    narrow: Annotated[bool, typer.Option("--narrow", help="Cut the 112x112 crops to 112x96.")] = False,
) -> None:
    """Write the crops of an insightface verification set as files; nothing in it is executed.

    Example: sfplus unpack agedb_30.bin agedb --narrow, then: sfplus embed agedb features --crops, then:
    sfplus verify --features features/features.safetensors --pairs agedb_30.bin --mirrored
    """
    print(f"{unpack(file, folder, narrow)} photos in {folder}")
