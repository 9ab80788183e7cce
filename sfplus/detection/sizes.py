"""How much a detector works on at a time, which depends on its device; callers hand over as many photos."""

from __future__ import annotations

from typing import NamedTuple

from sfplus.device import Device
from sfplus.io.cpus import count_decoders


class Sizes(NamedTuple):
    """The amounts of work that suit a device.

    In memory at a time are, on the host, photos of `pixels` and one more, and as many that are decoded in advance and
    one more for each of the `decoders`; on the device, the integral images of the former (16 bytes per pixel), the
    canvases of `batch` (about 150 bytes per pixel), the features of `search` (about 40), the `tables`, and up to 1 GB
    to compare boxes. Photos of up to 12 megapixels need about 3 GB of a GPU (computed, not measured).

    Attributes:
        photos: photos that are detected together, at most.
        pixels: of these photos.
        prefetched: photos that are decoded in advance, at most.
        decoders: threads that decode photos.
        canvas: pixels of a canvas.
        batch: pixels of the canvases that P-Net sees together; 0: one canvas.
        search: pixels of the canvases that are searched before the host waits for the device; 0: one batch.
        refine: candidates that R-Net sees together.
        output: candidates that O-Net sees together.
        tables: bytes of the look-up tables of canvases that are kept.
    """

    photos: int
    pixels: int
    prefetched: int
    decoders: int
    canvas: int
    batch: int
    search: int
    refine: int
    output: int
    tables: int


def sizes_for(device: Device) -> Sizes:
    """Return the sizes for a device; on a CPU, one canvas at a time stays in the cache."""
    decoders = count_decoders(device.is_cuda)
    if device.is_cuda:
        return Sizes(512, 1 << 24, 512, decoders, 1 << 18, 1 << 21, 1 << 23, 1024, 256, 1 << 30)
    return Sizes(64, 1 << 22, max(8, decoders), decoders, 1 << 17, 0, 0, 32, 12, 64 << 20)
