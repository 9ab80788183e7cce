"""The entry point reports expected errors in one line and hides no others."""

import errno
import os
from pathlib import Path

import pytest

from sfplus import __main__ as script


def test_a_full_disk_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device", "data/x")

    monkeypatch.setattr(script, "app", lambda **_: full())
    with pytest.raises(SystemExit) as stop:
        script.main()
    assert stop.value.code == 1
    assert (
        capsys.readouterr().err
        == "sfplus: data/x: No space left on device; free some space; the same command resumes\n"
    )


def test_ctrl_c_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "app", lambda **_: stop())
    with pytest.raises(SystemExit) as exit_:
        script.main()
    assert exit_.value.code == 130 and "the same command resumes" in capsys.readouterr().err


def test_a_missing_package_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "app", lambda **_: __import__("no_such_package"))
    with pytest.raises(SystemExit) as stop:
        script.main()
    assert stop.value.code == 1 and "the package 'no_such_package' is missing" in capsys.readouterr().err


def test_unexpected_errors_are_written_to_a_file_that_one_line_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SFPLUS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(script, "app", lambda **_: 1 / 0)
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            script.main()
        (file,) = (tmp_path / "home" / "errors").iterdir()
        assert stop.value.code == 1
        assert capsys.readouterr().err == (
            f"sfplus: a mistake in sfplus (ZeroDivisionError: division by zero); please report it with {file}\n"
        )
    assert "in <lambda>" in file.read_text() and file.read_text().endswith("ZeroDivisionError: division by zero\n")


class _Panic(BaseException):
    """As libraries in Rust raise it."""


@pytest.mark.parametrize(
    "error", [ValueError("a\n\x1b[2Jb"), _Panic(), OSError("no number"), RecursionError(), KeyError(1)]
)
def test_a_traceback_that_cannot_be_written_is_mentioned_in_one_line(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail() -> None:
        raise error

    (tmp_path / "file").touch()
    monkeypatch.setenv("SFPLUS_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(script, "app", lambda **_: fail())
    with pytest.raises(SystemExit) as stop:
        script.main()
    message = capsys.readouterr().err
    assert stop.value.code == 1 and message.count("\n") == 1 and "\x1b" not in message
    assert message.startswith(f"sfplus: a mistake in sfplus ({type(error).__name__}") and "cannot be written" in message


@pytest.mark.parametrize("number", [errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG])
def test_errors_of_files_are_reported_in_one_line(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), "out/x")

    monkeypatch.setattr(script, "app", lambda **_: fail())
    with pytest.raises(SystemExit) as stop:
        script.main()
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith(f"sfplus: out/x: {os.strerror(number)}; ")
