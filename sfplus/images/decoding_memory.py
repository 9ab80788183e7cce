"""The memory that decoding a photo takes, which depends on its format."""

from __future__ import annotations

from PIL import Image

_RGB = 3  # bytes of a pixel of the result
PLAIN = 4 + _RGB  # of a photo in most formats: Pillow stores 4 bytes per pixel
# Bytes per pixel, measured with Pillow 12.3 and pillow-heif 1.8 on photos of 24 megapixels.
_OF_FORMAT = {"AVIF": 11, "HEIF": 9, "JPEG2000": 25, "WEBP": 17}
_OF_MODE = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "LA": 4, "PA": 4}
_STRIP = 2.25  # bytes of a strip of a TIFF, packed and unpacked, per byte that Pillow stores
_ORIENTATION, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_LENGTH = 274, 278, 322, 323  # tags of TIFF


def bytes_per_pixel(image: Image.Image, buffered: bool) -> float:
    """Return the memory that it takes to decode an image, its result included, in bytes per pixel.

    Args:
        image: an open image.
        buffered: the coefficients of a JPEG are kept until its last scan.
    """
    kind = image.format or ""
    if kind != "HEIF" and not getattr(image, "tile", ()):  # it is decoded already
        return PLAIN
    stored = _OF_MODE.get(image.mode, 4)
    if kind in _OF_FORMAT:
        return _OF_FORMAT[kind]
    extra = float(_RGB)
    if buffered:
        extra = max(extra, _coefficients(image))
    if kind == "TIFF":
        extra = max(extra, _STRIP * stored * _strip_share(image), stored * _is_turned(image))
    return stored + extra


def relative_memory(kind: str, needed: float = 0) -> float:
    """Return the memory of a photo relative to one in most formats of the same size, at least 1.

    Args:
        kind: the name of the format.
        needed: bytes per pixel, if they are known; else those of the format.
    """
    return max(1.0, (needed or _OF_FORMAT.get(kind, PLAIN)) / PLAIN)


def _coefficients(image: Image.Image) -> float:
    """Return the bytes of the coefficients of a JPEG, per pixel of the image."""
    sampling: list[int] = [across * down for _, across, down, _ in getattr(image, "layer", ())]
    return 2 * sum(sampling) / max([1, *sampling])


def _strip_share(image: Image.Image) -> float:
    """Return the part of a TIFF that is decompressed at a time: a strip or a tile."""
    if image.info.get("compression") == "raw":
        return 0
    width, height = image.size
    columns = _tag(image, _TILE_WIDTH, width)
    rows = _tag(image, _TILE_LENGTH, _tag(image, _ROWS_PER_STRIP, height))
    return min(1.0, columns * rows / max(1, width * height))


def _is_turned(image: Image.Image) -> bool:
    return _tag(image, _ORIENTATION, 1) != 1


def _tag(image: Image.Image, tag: int, default: int) -> int:
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return value if isinstance(value, int) else default
