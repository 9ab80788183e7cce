"""Image files: list the photos of a folder, decode a photo safely, encode an image."""

from sfplus.images.decoding import (
    Inspect,
    PhotoHeader,
    check_suffix,
    convert_image,
    decode_photo,
    is_transient,
    read_photo,
    reserve_memory,
)
from sfplus.images.encoding import encode_image, shrink
from sfplus.images.formats import (
    PHOTO_SUFFIXES,
    UNREAD_SUFFIXES,
    VIDEO_SUFFIXES,
    heic_is_readable,
    needs_missing_package,
)
from sfplus.images.listing import CACHE, CONTACT_SHEET, LeftOut, has_photos, list_left_out, list_photos, system_name
from sfplus.images.pixels import Pixels

__all__ = [
    "CACHE",
    "CONTACT_SHEET",
    "PHOTO_SUFFIXES",
    "UNREAD_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Inspect",
    "LeftOut",
    "PhotoHeader",
    "Pixels",
    "check_suffix",
    "convert_image",
    "decode_photo",
    "encode_image",
    "has_photos",
    "heic_is_readable",
    "is_transient",
    "list_left_out",
    "list_photos",
    "needs_missing_package",
    "read_photo",
    "reserve_memory",
    "shrink",
    "system_name",
]
