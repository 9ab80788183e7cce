"""The memory of this process."""

from __future__ import annotations

import ctypes
import sys

_LARGEST_KEPT = (32 << 20) - (64 << 10)  # bytes; with its header, at most glibc's limit of 32 MB


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next pass, which saves 8 % of a training step of SphereFace-20 on a CPU.

    By default glibc requests blocks above 32 MB from the system each time, page by page, and returns freed ones
    (mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD). This changes the process for good, so only the command line calls it:
    in a program that uses the library, memory once used would never return to the system. On other systems than Linux
    with glibc it does nothing. Commands on photos do the opposite, see `return_photo_memory`.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(-4, 0)
        mallopt(-1, -1)


def return_photo_memory() -> None:
    """Let glibc return the memory of each photo to the system as soon as it is free.

    By default it learns to keep blocks of up to 32 MB, such as the 16 MB in which Pillow stores pixels, for the thread
    that used them (mallopt(3), M_MMAP_THRESHOLD): each thread that decodes would keep the memory of its largest photo.
    Smaller blocks are still kept, 64 MB of them per thread, enough for the layers of SphereFace-20: without
    M_TRIM_THRESHOLD, which no longer adapts then, the detector would request the memory of each layer anew, which takes
    a third of its time. Like `keep_freed_memory`, this is for the command line.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(-3, 12 << 20)
        mallopt(-1, 64 << 20)


def reuse_freed_blocks() -> None:
    """Let glibc keep freed blocks of up to 32 MB for the next ones, as it does once a program has freed such a block.

    It returns the memory that is free at the end of its heap as soon as that is twice the largest block so far
    (mallopt(3), M_MMAP_THRESHOLD). With blocks of a few MB, such as the layers of a detector, that is after nearly each
    step, and up to a seventh of the time goes into requests of the same pages. The block that teaches it is never
    written to. Settings of the program, or of the commands (see above), stay as they are.
    """
    import numpy as np  # not for the help of the command line

    np.empty(_LARGEST_KEPT, np.uint8)


def return_freed_memory() -> None:
    """Return the memory to the system that glibc has kept between blocks in use (malloc_trim(3)); milliseconds."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
