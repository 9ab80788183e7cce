"""The process that decodes one upload: reads a photo from stdin and writes its pixels to stdout.

It imports neither torch nor the models, so that it starts quickly.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

from sfplus.errors import PhotoError
from sfplus.images import decode_photo, shrink


def main(max_pixels: int, side: int, seconds: int) -> None:
    """Decode stdin; stdout gets a line of JSON with the shape and then the pixels, or with the reason of the failure.

    Args:
        max_pixels: photos with more pixels are refused.
        side: longer photos are scaled down to this number of pixels.
        seconds: the time after which the process ends, should nobody else stop it.
    """
    data = sys.stdin.buffer.read()
    if hasattr(signal, "alarm"):  # not on Windows
        signal.alarm(seconds)
    answer: dict[str, Any]
    try:
        photo = shrink(decode_photo(data, Path("photo"), max_pixels), side)
    except PhotoError as error:
        answer, pixels = {"reason": error.reason, "remedy": error.remedy}, b""
    else:
        answer, pixels = {"shape": photo.shape}, photo.tobytes()
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + pixels)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
