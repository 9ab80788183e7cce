"""How much a detector works on at a time, which depends on its device; callers hand over as many photos."""

from __future__ import annotations

from typing import NamedTuple

from sfplus.device import Device
from sfplus.io.cpus import count_decoders


class Sizes(NamedTuple):
    """The amounts of work that suit a device.

    On the host, photos take at most `memory` bytes while they are decoded, wait and are detected; a photo that needs
    more, up to 700 MB (see `read_photo`), is decoded alone. On the device are, at a time, the integral images of the
    photos that are detected together (16 bytes per pixel; on a CPU, of photos above `banded` pixels only a part), the
    canvases of `batch` (about 150 bytes per pixel), the features of `search` (about 40), the `tables`, and up to 1 GB
    to compare boxes. Photos of up to 12 megapixels need about 3 GB of a GPU (computed, not measured).

    Attributes:
        photos: photos that are detected together, at most.
        pixels: of these photos.
        memory: bytes of all photos on the host.
        prefetched: photos that are decoded in advance, at most.
        decoders: threads that decode photos.
        canvas: pixels of a canvas.
        batch: pixels of the canvases that P-Net sees together; 0: one canvas.
        search: pixels of the canvases that are searched before the host waits for the device; 0: one batch.
        refine: candidates that R-Net sees together.
        output: candidates that O-Net sees together.
        mirrored: faces that O-Net sees together in the mirrored pass: on a CPU few, since most photos have one face.
        tables: bytes of the look-up tables of canvases that are kept.
        banded: pixels of a photo above which the sums of its pixels are computed in parts; 0: never.
    """

    photos: int
    pixels: int
    memory: int
    prefetched: int
    decoders: int
    canvas: int
    batch: int
    search: int
    refine: int
    output: int
    mirrored: int
    tables: int
    banded: int


def sizes_for(device: Device) -> Sizes:
    """Return the sizes for a device; on a CPU, one canvas at a time stays in the cache."""
    decoders = count_decoders(device.is_cuda)
    if device.is_cuda:
        return Sizes(512, 1 << 24, 1 << 30, 512, decoders, 1 << 18, 1 << 21, 1 << 23, 1024, 256, 256, 1 << 30, 0)
    return Sizes(64, 1 << 22, 200_000_000, max(8, decoders), decoders, 1 << 17, 0, 0, 64, 12, 4, 64 << 20, 28_000_000)
