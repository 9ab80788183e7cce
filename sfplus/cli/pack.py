"""`sfplus pack`: write the crops of a collection into one memory-mapped file, so that training decodes nothing."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from sfplus.alignment import narrow_crop
from sfplus.datasets.build_pack import build_pack
from sfplus.datasets.formats.pack import Pack
from sfplus.io.console import Console, print_failures
from sfplus.io.tables import FAILURES, read_json_lines


def pack(
    path: Path,
    out: Path,
    *,
    size: tuple[int, int] | None = None,
    narrow: bool = False,
    exclude: Collection[str] = (),
    split: str = "",
) -> int:
    """Build a pack and print a summary.

    Args and exceptions are those of `build_pack`, except that `narrow` cuts 112x112 crops to the 112x96 of the
    SphereFace networks.

    Returns:
        The exit code: 1 if an image could not be used (`failures.jsonl` of the pack gives the reasons), else 0.
    """
    console = Console()
    packed = build_pack(
        path, out, console, size=size, narrow=narrow_crop if narrow else None, exclude=exclude, split=split
    )
    failures = read_json_lines(out / FAILURES)
    print_failures(failures, out / FAILURES)
    if len(packed.people) < 2:
        console.warn(f"{out}: contains only one person; training needs at least two")
    single = f" ({packed.manifest['alone']} with one crop)" if packed.manifest["alone"] else ""
    crops = f"{len(packed)} crops ({packed.height}x{packed.width})"
    print(f"{crops} of {len(packed.people)} people{single}, {len(failures)} failed: {out}")
    return 1 if failures else 0


def check(folder: Path) -> None:
    """Compare all files of a pack with their checksums, and print the result.

    Raises:
        DatasetError: If a file is missing or changed; the message names the block and the crop.
    """
    packed = Pack(folder)
    with Console().progress("check", resumed=False) as progress:
        progress.start(len(packed), "crops")
        for count in packed.check():
            progress.advance(count)
    print(f"{folder}: intact, {len(packed)} crops of {len(packed.people)} people")
