import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_server import Server, serve

from sfplus.datasets import lfw
from sfplus.errors import DatasetError


def archive(tmp_path: Path, *members: tuple[str, bytes | str]) -> Path:
    """Write a tar file: bytes become files, text becomes links."""
    path = tmp_path / "a.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for name, what in members:
            info = tarfile.TarInfo(name)
            if isinstance(what, bytes):
                info.size = len(what)
                tar.addfile(info, io.BytesIO(what))
            else:
                info.type, info.linkname = tarfile.SYMTYPE, what
                tar.addfile(info)
    return path


def test_extracts_without_the_top_folder(tmp_path: Path) -> None:
    path = archive(tmp_path, ("lfw/A/A_0001.jpg", b"1"), ("lfw/B/B_0001.jpg", b"22"))
    assert lfw.extract(path, tmp_path / "out") == 2
    assert (tmp_path / "out/B/B_0001.jpg").read_bytes() == b"22"


@pytest.mark.parametrize(
    "member",
    [("lfw/../../evil.jpg", b"x"), ("/etc/evil.jpg", b"x"), ("lfw/A/link.jpg", "/etc/passwd"), ("top.jpg", b"x")],
)
def test_members_that_would_leave_the_folder_are_refused(tmp_path: Path, member: tuple[str, bytes | str]) -> None:
    with pytest.raises(DatasetError, match="is not a regular file in a folder"):
        lfw.extract(archive(tmp_path, member), tmp_path / "out")
    assert not list(tmp_path.rglob("*.jpg"))


def test_truncated_archive_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path, ("lfw/A/A_0001.jpg", bytes(range(256)) * 400))
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DatasetError, match=r"a\.tgz: is damaged .*; delete it and try again"):
        lfw.extract(path, tmp_path / "out")


def test_existing_photos_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of deep-funneled photos must not be overwritten with the originals."""
    (tmp_path / "A").mkdir()
    (tmp_path / "A/A_0001.jpg").write_bytes(b"mine")
    (tmp_path / "pairs.txt").write_text("")
    monkeypatch.setattr(lfw, "download", lambda *_: pytest.fail("nothing is to be downloaded"))
    assert lfw.fetch_lfw(tmp_path) == tmp_path and (tmp_path / "A/A_0001.jpg").read_bytes() == b"mine"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A local server with small versions of the files of LFW."""
    photos = archive(tmp_path, ("lfw/A/A_0001.jpg", b"1"), ("lfw/B/B_0001.jpg", b"22")).read_bytes()
    with serve() as server:
        for name, content in (("_ARCHIVE", photos), ("_PAIRS", b"10\t300\n")):
            monkeypatch.setattr(lfw, name, (server.put(f"/{name}", content), hashlib.sha256(content).hexdigest()))
        yield server


def test_files_are_downloaded_once(tmp_path: Path, host: Server) -> None:
    for _ in range(2):
        lfw.fetch_lfw(tmp_path / "lfw")
    assert host.requests == ["/_PAIRS", "/_ARCHIVE"]
    assert (tmp_path / "lfw/pairs.txt").read_bytes() == b"10\t300\n"
    assert (tmp_path / "lfw/B/B_0001.jpg").read_bytes() == b"22"


def test_interrupted_extraction_continues(tmp_path: Path, host: Server) -> None:
    folder = tmp_path / "lfw"
    (folder / "A").mkdir(parents=True)
    (folder / "A/A_0001.jpg").write_bytes(b"1")
    (folder / ".unpacking").touch()
    lfw.fetch_lfw(folder)
    assert (folder / "B/B_0001.jpg").read_bytes() == b"22" and not (folder / ".unpacking").exists()


def test_missing_network_is_reported_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lfw, "_PAIRS", ("http://127.0.0.1:1/pairs.txt", "0" * 64))  # nothing listens there
    with pytest.raises(DatasetError, match=r"cannot be downloaded \(ConnectionError\); .*make lfw LFW=path"):
        lfw.fetch_lfw(tmp_path / "lfw")


def test_download_with_another_digest_is_refused(tmp_path: Path, host: Server) -> None:
    host.put("/_PAIRS", b"10\t301\n")
    with pytest.raises(DatasetError, match="SHA-256 differs"):
        lfw.fetch_lfw(tmp_path / "lfw")
    assert not (tmp_path / "lfw/pairs.txt").exists()
