"""No text from a file, a name or an argument controls the terminal of the user, whatever the command prints."""

import errno
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

_NAME = "a\x1b]0;title\x07\x1b[2J\u202e\nsame person"  # as much as the name of a file can hold
_ALLOWED = {"\n", "\t"}


def _write_photos(folder: Path) -> Path:
    folder.mkdir()
    Image.new("RGB", (40, 40)).save(folder / f"{_NAME}.jpg", "JPEG")
    for suffix in (".mp4", ".svg", ".cut.jpg", ".heic"):
        (folder / f"{_NAME}{suffix}").write_bytes(b"\xff\xd8\xff" if "jpg" in suffix else b"x")
    (folder / f"{_NAME}.d").mkdir()
    (folder / "photos.txt").write_text(f"{_NAME}.jpg\nmissing\x1b[2J.jpg\n", "utf-8")
    return folder


def _lines(folder: Path) -> list[list[str]]:
    photos, out = str(folder), str(folder.parent / "out")
    photo, video, cut = (f"{folder}/{_NAME}{suffix}" for suffix in (".jpg", ".mp4", ".cut.jpg"))
    recipe = folder.parent / f"{_NAME[:4]}.yaml"
    recipe.write_text('train: {photos: "x\\e[2J", network: "a\\e]0;b\\a\\nsame person"}\n"k\\e[2J": 1\n', "utf-8")
    empty = folder.parent / f"{_NAME}.empty"
    empty.mkdir(exist_ok=True)
    report = folder.parent / "report.json"
    report.write_text('{"results": {"a\\u001b[2J": {"protocol": "\\u001b[2J"}}}')
    damaged = folder.parent / f"{_NAME}.pth"
    damaged.write_bytes(b"PK\3\4" + _NAME.encode("utf-8", "surrogateescape") * 9)
    return [
        ["align", photos, out], ["detect", photos, out + "2"], ["embed", photos, out + "3", "--model", photo],
        ["align", str(folder / "photos.txt"), out + "4"], ["align", video, out + "5"], ["align", str(empty), out + "6"],
        ["align", photos, f"/proc/{_NAME}"], ["align", photos, out, f"--{_NAME}"],
        ["align", photos, out, "--fit", _NAME],
        [_NAME], ["align", _NAME, out], ["compare", photo, cut], ["compare", photo, _NAME], ["find", photo, photos],
        ["group", photos, out + "7"], ["group", out, out + "8"], ["recipes", "check", str(recipe)],
        ["run", str(recipe)], ["run", _NAME], ["run", "demo", f"{_NAME}=1"],
        ["recipes", "check", "demo", f"train.network={_NAME}"],
        ["recipes", "show", str(recipe)], ["recipes", "copy", "demo", str(empty)], ["report", str(report)],
        ["report", _NAME], ["status", _NAME], ["verify", photos, _NAME], ["convert", str(damaged), out + "9"],
        ["models", "fetch", _NAME], ["export", _NAME, out], ["energy", str(damaged)], ["sweep", "demo", f"{_NAME}=1,2"],
        ["run", "demo", "--device", _NAME], ["run", "demo", "--until", _NAME], ["unpack", str(damaged), out + "10"],
        ["pack", photos, out + "11"], ["overlap", photos, str(empty)], ["verify", str(empty), photo],
    ]  # fmt: skip


def test_no_command_lets_text_control_the_terminal(
    sfplus: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFPLUS_HOME", str(tmp_path / "home"))
    lines = _lines(_write_photos(tmp_path / "photos"))
    for words in lines:
        answer = sfplus(*words)
        text = answer.out + answer.err
        wrong = {c for c in text if not c.isprintable() and c not in _ALLOWED}
        assert not wrong, (words, text)
        assert "\nsame person" not in text and "a mistake in sfplus" not in text, (words, text)
        assert all(len(line) < 3500 for line in answer.err.split("\n")), words
    assert len(lines) == 38


def test_a_terminal_gets_colours_of_sfplus_alone(tmp_path: Path) -> None:
    """On a terminal with a live bar."""
    photos = _write_photos(tmp_path / "photos")
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "sfplus", "align", str(photos), str(tmp_path / "out")]
    with subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env={**os.environ, "TERM": "xterm"}
    ):
        os.close(follower)
        output = b""
        while True:
            try:
                data = os.read(leader, 1 << 16)
            except OSError as error:
                assert error.errno == errno.EIO
                break
            if not data:
                break
            output += data
    os.close(leader)
    text = output.decode()
    assert "\x1b[" in text and r"\x1b]0;title\x07" in text
    assert "\x1b]" not in text and "\x07" not in text and "\u202e" not in text and "\nsame person" not in text


@pytest.mark.parametrize("words", [["--help"], ["recipes", "list"], ["recipes", "show", "demo"], ["models", "list"]])
def test_a_reader_that_stops_reading_is_no_error(words: list[str]) -> None:
    command = f"'{sys.executable}' -m sfplus {' '.join(words)} | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=120)
    assert done.stderr == b"" and done.stdout.count(b"\n") == 1
