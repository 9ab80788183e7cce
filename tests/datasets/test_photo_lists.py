"""Lists of photos in any common encoding and notation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sfplus.datasets.photo_lists import read_photo_list

NAMES = [
    "a.jpg", "with space.jpg", "Zoë.jpg", "it's.jpg", 'so "called".jpg', "# one.jpg", "back\\slash.jpg", "sub/d.jpg",
]  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(data: bytes, folder: Path = Path("/nowhere")) -> tuple[list[str], list[str]]:
    """Return the listed paths relative to the current folder, and the missing ones."""
    found = read_photo_list(data, folder)
    return [path.relative_to(Path.cwd()).as_posix() for path in found.paths], found.missing


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
@pytest.mark.parametrize("last", [True, False])
def test_encodings_and_line_ends(photos: Path, encoding: str, end: str, last: bool) -> None:
    text = end.join(["", *NAMES, " \t"]) + end * last
    assert read(text.encode(encoding)) == (NAMES, [])


@pytest.mark.parametrize("last", [True, False])
def test_paths_with_nul_bytes_between_them(photos: Path, last: bool) -> None:
    (photos / "line\nbreak.jpg").touch()
    (photos / " spaces .jpg").touch()
    names = [*NAMES, "line\nbreak.jpg", " spaces .jpg", "./a.jpg"]
    data = b"\0".join(os.fsencode(name) for name in names) + b"\0" * last
    assert read(data) == ([*names[:-1], "a.jpg"], [])
    assert read(b"a.jpg\0") == (["a.jpg"], [])
    long = "x" * 240 + "/" + "y" * 240 + ".jpg"
    assert read(long.encode() + b"\0a.jpg\0") == (["a.jpg"], [long])


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("with space.jpg", "with space.jpg"),
        ("  with space.jpg\t", "with space.jpg"),
        ('"with space.jpg"', "with space.jpg"),
        ("'with space.jpg'", "with space.jpg"),
        (" 'with space.jpg' ", "with space.jpg"),
        ("with\\ space.jpg", "with space.jpg"),
        ("it's.jpg", "it's.jpg"),
        ('"it\'s.jpg"', "it's.jpg"),
        ("'it'\\''s.jpg'", "it's.jpg"),
        ('so "called".jpg', 'so "called".jpg'),
        ('"so \\"called\\".jpg"', 'so "called".jpg'),
        ("back\\slash.jpg", "back\\slash.jpg"),
        ("# one.jpg", "# one.jpg"),
        ("./sub/../a.jpg", "a.jpg"),
    ],
)
def test_spaces_and_quotes(photos: Path, line: str, name: str) -> None:
    assert read(line.encode()) == ([name], [])
    assert read(f"a.jpg\n{photos}/{line}".encode()) == (["a.jpg", name], []) or line[0] in "'\" #"


def test_a_name_that_is_in_no_encoding_is_found(photos: Path) -> None:
    raw = b"raw\xff\xfe.jpg"
    (photos / os.fsdecode(raw)).touch()
    expected = [os.fsdecode(raw), "a.jpg"]
    assert read(raw + b"\na.jpg\n") == (expected, []) and read(raw + b"\0a.jpg\0") == (expected, [])


def test_missing_paths_are_returned_as_written_without_quotes_and_comments(photos: Path) -> None:
    text = "a.jpg\n# a comment\ngone.jpg\n  'not here.jpg' \n/nowhere/x.png\n"
    assert read(text.encode()) == (["a.jpg"], ["gone.jpg", "not here.jpg", "/nowhere/x.png"])
    assert read("Zoé.jpg\n".encode("cp1252")) == ([], ["Zoé.jpg"])
    assert read(b"a" * 5000 + b".jpg") == ([], ["a" * 5000 + ".jpg"])


def test_relative_paths_start_at_the_current_folder_or_at_that_of_the_list(photos: Path) -> None:
    assert read(b"a.jpg\nd.jpg\n", photos / "sub") == (["a.jpg", "sub/d.jpg"], [])


def test_links_are_kept_and_broken_ones_exist(photos: Path) -> None:
    (photos / "link.jpg").symlink_to("a.jpg")
    (photos / "broken.jpg").symlink_to("gone.jpg")
    assert read(b"link.jpg\nbroken.jpg\n") == (["link.jpg", "broken.jpg"], [])
