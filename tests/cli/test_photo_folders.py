"""Commands on a folder of photos: safety of the files of the user, published results."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from unusual_photos import tree

from sfplus.cli import photo_folders
from sfplus.errors import UsageError

Command = Callable[..., object]


def publish(out: Path, *names: str) -> None:
    out.parent.mkdir(exist_ok=True)
    (out / ".sfplus").mkdir(parents=True, exist_ok=True)
    (source := out.with_name("source")).write_text("crop")
    photo_folders.publish(dict.fromkeys(names, source), out)


def test_an_out_folder_with_other_files_is_refused(drawn: Path, tmp_path: Path, sfplus: Command) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/user.txt").write_text("user")
    answer = sfplus("align", drawn, tmp_path / "out")
    assert answer.code == 2 and "contains other files; choose a new or an empty folder" in answer.err
    assert list(tree(tmp_path / "out")) == [str(tmp_path / "out/user.txt")]


def test_a_link_that_leads_out_of_out_is_not_followed(drawn: Path, tmp_path: Path, sfplus: Command) -> None:
    """OUT/person_000 is a link to the photos, which must not be replaced by their crops."""
    shutil.copytree(drawn, tmp_path / "in")
    before = tree(tmp_path / "in")
    (tmp_path / "out/.sfplus").mkdir(parents=True)
    (tmp_path / "out/person_000").symlink_to(tmp_path / "in/person_000")
    answer = sfplus("align", tmp_path / "in", tmp_path / "out")
    assert answer.code == 2 and "leads out of OUT; remove this link" in answer.err and tree(tmp_path / "in") == before


def test_nothing_outside_of_out_is_created_or_deleted(tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish(out, "a/1.jpg", "b/1.jpg")
    shutil.rmtree(out / "a")
    (out / "a").symlink_to(tmp_path / "user")
    (tmp_path / "user").mkdir()
    (tmp_path / "user/1.jpg").write_text("user")
    publish(out, "b/1.jpg")
    assert (tmp_path / "user/1.jpg").read_text() == "user"
    with pytest.raises(UsageError, match="leads out of OUT"):
        publish(out, "a/new/1.jpg")
    assert [path.name for path in (tmp_path / "user").iterdir()] == ["1.jpg"]


def test_a_published_file_can_become_a_folder_and_a_file_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for names in (["x.jpg", "y"], ["x.jpg/deep/1.jpg", "y"], ["x.jpg", "y"]):
        publish(out, *names)
        files = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
        assert sorted(path.as_posix() for path in files if path.parts[0] != ".sfplus") == names


def test_artefacts_that_another_run_uses_are_not_deleted(
    drawn: Path, tmp_path: Path, sfplus: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run is about to copy its crops when another run with the same OUT ends."""
    publish_files, artefacts = photo_folders.publish, tmp_path / "out/.sfplus/cache/align"

    def publish_late(files: dict[str, Path], out: Path) -> None:
        monkeypatch.setattr("sfplus.cli.align.publish", publish_files)
        assert sfplus("align", drawn, out, "--format", "png").code == 0
        assert len(list(artefacts.glob("*/manifest.json"))) == 2
        publish_files(files, out)

    monkeypatch.setattr("sfplus.cli.align.publish", publish_late)
    assert sfplus("align", drawn, tmp_path / "out").code == 0
    assert len(list((tmp_path / "out").glob("*/*.jpg"))) == 12 and not list((tmp_path / "out").glob("*/*.png"))
    assert len(list(artefacts.glob("*/manifest.json"))) == 1  # the last run to end has deleted that of the other
    assert not list((tmp_path / "out/.sfplus/users").iterdir())


def test_the_lock_of_a_killed_run_is_removed(tmp_path: Path) -> None:
    (lock := tmp_path / "1.lock").touch()
    assert not photo_folders._is_held(lock) and not lock.exists()


_RESULTS = {
    "align": ["faces.parquet", "failures.jsonl", "a/1.jpg"],
    "detect": ["faces.parquet", "photos.parquet", "failures.jsonl"],
    "embed": ["features.safetensors", "index.parquet", "faces.parquet", "model.json", "failures.jsonl"],
    "group": ["model.json", "failures.jsonl"],
    "find": ["model.json", "failures.jsonl"],
}


def _results(command: str, out: Path) -> None:
    """Make a folder of the results of a command."""
    publish(out, *_RESULTS[command])
    if command == "group":
        (out / ".sfplus/group").mkdir()
    if command == "find":
        (out / "found.csv").touch()


@pytest.mark.parametrize("first", _RESULTS)
def test_the_results_of_another_command_are_not_touched(
    first: str, drawn: Path, tmp_path: Path, sfplus: Command
) -> None:
    out = tmp_path / "out"
    _results(first, out)
    before = tree(out)
    for second in {*_RESULTS} - {first}:
        words = ["find", next(drawn.glob("*/*")), drawn, "--out", out] if second == "find" else [second, drawn, out]
        answer = sfplus(*words)
        assert answer.code == 2 and answer.err.endswith(
            f"{out}: holds the results of sfplus {first}; choose another OUT, or delete this one\n"
        ), answer
        assert tree(out) == before
    assert photo_folders._command_of(out) == first


@pytest.mark.parametrize(
    "text",
    ["", "\0\0\0", "{", "{}", "[1]", "[null]", '["../user"]', '["/etc/passwd"]', '["a/../../user"]', '["a/.."]',
     '["a\\u0000"]', '[""]', "[" * 100_000, '[["a"]]', "9" * 5000],
    ids=range(15),
)  # fmt: skip
def test_a_damaged_list_of_published_files_is_written_anew(text: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "user").write_text("user")
    publish(out, "a/1.jpg")
    (out / ".sfplus/published.json").write_text(text)
    with pytest.warns(UserWarning, match="published.json: .*; files of earlier runs stay in OUT"):
        publish(out, "b/1.jpg")
    assert (out / "a/1.jpg").exists() and (tmp_path / "user").read_text() == "user"
    publish(out, "c/1.jpg")
    assert not (out / "b/1.jpg").exists() and (out / "c/1.jpg").exists()


def test_names_that_are_not_utf_8_are_published_and_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish(out, "a\udcff/1.jpg")
    assert (out / "a\udcff/1.jpg").exists()
    publish(out, "b/1.jpg")
    assert not (out / "a\udcff").exists()


@pytest.mark.parametrize("data", [b"", bytes(20), b"{", b"{}", b"[1]", b"[" * 99999, b"\xff"])
def test_a_damaged_list_of_published_files_is_one_line_and_written_anew(data: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish(out, "a.jpg")
    record = out / ".sfplus/published.json"
    record.write_bytes(data)
    with pytest.warns(UserWarning, match=r"published.json: is damaged \(.*\); files of earlier runs stay in OUT"):
        publish(out, "b.jpg")
    assert (out / "a.jpg").is_file() and (out / "b.jpg").is_file()
    publish(out, "c.jpg")
    assert not (out / "b.jpg").exists()


def test_a_copy_that_a_power_cut_emptied_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a copy is that of its source only after the copy was flushed."""
    out = tmp_path / "out"

    def cut(paths: object) -> None:
        for path in paths:  # type: ignore[attr-defined]
            path.write_bytes(bytes(path.stat().st_size))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(photo_folders, "flush_all", cut)
        with pytest.raises(KeyboardInterrupt):
            publish(out, "a.jpg")
    publish(out, "a.jpg")
    assert (out / "a.jpg").read_bytes().strip(b"\0")
