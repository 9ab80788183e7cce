"""Write the crops of an insightface verification set as image files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from sfplus.alignment import narrow_crop
from sfplus.cli.command import App
from sfplus.datasets.verification_bin import unpack_bin
from sfplus.errors import UsageError
from sfplus.images import CACHE, encode_image, list_photos, read_photo
from sfplus.io.console import quantity
from sfplus.io.files import check_input, write_atomically

app = App()


def unpack(path: Path, folder: Path, narrow: bool) -> int:
    """Write the photos of a `.bin` file into a folder, under the names that its pairs use.

    Args:
        path: the `.bin` file; no code in it is run.
        folder: the destination, which is created if it is missing.
        narrow: cut 112x112 crops to 112x96 and write PNG, for networks of this input size.

    Returns:
        The number of photos.

    Raises:
        UsageError: If there is no such file, or the folder holds the results of another command.
        PairsError: If the file is not a `.bin` file of insightface.
        PhotoError: If `narrow` is set and a photo is not 112x112 or cannot be decoded.
    """
    check_input(path, "file")
    if (folder / CACHE).exists():
        raise UsageError("holds the results of another command", where=folder, remedy="choose another OUT")
    if not narrow:
        return unpack_bin(path, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        count = unpack_bin(path, Path(temporary))
        for name in list_photos(Path(temporary)):
            crop = narrow_crop(read_photo(Path(temporary) / name), f"{path}: photo {Path(name).stem}")
            write_atomically(folder / f"{Path(name).stem}.png", encode_image(crop, ".png"))
    return count


@app.command("unpack")
def unpack_command(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE.bin", help="A verification set of insightface, such as lfw.bin."),
    ],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write the photos to.")],
    narrow: Annotated[bool, typer.Option("--narrow", help="Cut 112x112 crops to 112x96.")] = False,
) -> None:
    """Write the crops of an insightface verification set as image files; no code in the set is run.

    Example: sfplus unpack agedb_30.bin agedb --narrow, then: sfplus embed agedb features --crops, then:
    sfplus verify --features features/features.safetensors --pairs agedb_30.bin --mirrored
    """
    print(f"{quantity(unpack(file, folder, narrow), 'photo')} in {folder}")
