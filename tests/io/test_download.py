import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_server import Server, serve

from sfplus.errors import WeightsError
from sfplus.io.download import download, is_page

BODY = bytes(range(256)) * 500
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as server:
        yield server


def test_a_file_is_downloaded_once_and_again_if_damaged(server: Server, tmp_path: Path) -> None:
    target, url = tmp_path / "new" / "weights", server.put("/weights", BODY)
    assert download(url, target) == SHA256 and target.read_bytes() == BODY
    assert download(url, target, SHA256) == SHA256 and len(server.requests) == 1
    target.write_bytes(b"damaged")
    download(url, target, SHA256)
    assert target.read_bytes() == BODY and [path.name for path in target.parent.iterdir()] == ["weights"]


@pytest.mark.parametrize(
    ("served", "sha256", "message"),
    [
        ({"body": b"<!DOCTYPE html><html>quota exceeded</html>"}, "", "a web page, not the file"),
        ({"body": b"\xef\xbb\xbf\n <HTML><body>Sign in"}, SHA256, "a web page, not the file"),
        ({"body": b"<?xml version='1.0'?><!-- x --><html xmlns=''>"}, "", "a web page, not the file"),
        ({"body": BODY[:-1]}, SHA256, "its SHA-256 differs"),
        ({"body": BODY[:900], "length": len(BODY)}, "", "cannot be downloaded"),
        ({"body": b"gone", "status": 404}, "", "the server says 404"),
        ({"body": b"busy", "status": 503}, SHA256, "the server says 503"),
    ],
)
def test_a_failed_download_leaves_no_file(
    server: Server, tmp_path: Path, served: dict[str, object], sha256: str, message: str
) -> None:
    url = server.put("/weights", **served)  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match=message):
        download(url, tmp_path / "weights", sha256, WeightsError)
    assert not list(tmp_path.iterdir())


def test_a_failed_download_keeps_the_old_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"old")
    with pytest.raises(WeightsError, match="by hand"):
        download("http://127.0.0.1:1/weights", tmp_path / "weights", SHA256, WeightsError, "get it by hand")
    assert (tmp_path / "weights").read_bytes() == b"old"


@pytest.mark.parametrize("start", [b"", b"\x0a\x0fSphereFace", b"<xml><a/></xml>", b'{"__metadata__":{}}'])
def test_other_files_are_not_web_pages(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "file").write_bytes(start)
    assert not is_page(tmp_path / "file")
