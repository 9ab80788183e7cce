"""Photos of all formats and damaged files, and digests of folders, for the tests of commands on folders."""

import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.data import astronaut

BAD = {"empty.jpg", "truncated.jpg", "text.jpg", "gigantic.png", "broken link.jpg"}


def tree(folder: Path) -> dict[str, str]:
    """Return the digest of each file below a folder, and the target of each link."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            digests[str(path)] = str(path.readlink())
        elif path.is_file():
            digests[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() + str(path.stat().st_mtime_ns)
    return digests


def jpeg(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Return a small file whose header states a size that its data does not have."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"0")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def write_unusual_photos(root: Path) -> None:
    """Write photos with unusual names and of unusual formats, and damaged files."""
    face = astronaut()[:256, 100:356]  # the face, at a quarter of the time for its detection
    pil = Image.fromarray(face)
    good = root / "good"
    good.mkdir(parents=True)
    (good / "plain.jpg").write_bytes(jpeg(face))
    (good / "with space, 'quotes\" & ünï.JPG").write_bytes(jpeg(face))
    (good / "line\nbreak.jpg").write_bytes(jpeg(face))
    pil.convert("L").save(good / "grey.png")
    pil.convert("P").save(good / "palette.gif")
    pil.convert("RGBA").save(good / "alpha.png")
    pil.convert("CMYK").save(good / "cmyk.jpg")
    Image.fromarray(np.asarray(pil.convert("L")).astype(np.uint16) * 257).save(good / "16bit.png")
    pil.save(good / "animated.webp", save_all=True, append_images=[pil.transpose(Image.Transpose.ROTATE_90)])
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to the right
    pil.transpose(Image.Transpose.ROTATE_90).save(good / "rotated.jpg", exif=exif)
    Image.fromarray(np.hstack([face, face[:, ::-1]])).save(good / "two faces.jpg")
    (good / "same.png").write_bytes((good / "alpha.png").read_bytes())
    (good / "same.jpg").write_bytes((good / "plain.jpg").read_bytes())

    bad = root / "bad"
    bad.mkdir()
    (bad / "empty.jpg").write_bytes(b"")
    (bad / "truncated.jpg").write_bytes(jpeg(face)[:4000])
    (bad / "text.jpg").write_text("this is not a photo")
    (bad / "gigantic.png").write_bytes(png_header(60000, 60000))
    (bad / "broken link.jpg").symlink_to(root / "gone.jpg")
    (root / "loop").symlink_to(root, target_is_directory=True)
    Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save(bad / "no face.png")
    (root / "notes.txt").write_text("not a photo, never changed")
