import logging
from pathlib import Path

import pytest

from sfplus.io import console
from sfplus.io.console import Console, byte_count, first_names, log_failures, quantity


def test_progress_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    Console().print_fresh("align")
    assert capsys.readouterr() == ("", "align              fresh\n")


def test_a_quiet_console_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True)
    console.print_fresh("align")
    with console.progress("detect", resumed=True) as line:
        line.start(10, "photos")
    assert capsys.readouterr() == ("", "")


def test_progress_ends_with_amount_rate_and_note(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().progress("detect", resumed=True) as line:
        line.start(10, "photos", 4)
        line.advance(5)
        line.advance(1, "9 faces, 1 missed")
    first, last = capsys.readouterr().err.splitlines()
    assert first == "detect             continues an interrupted run"
    assert last.startswith("detect             done") and "10 photos  " in last and last.endswith("9 faces, 1 missed")


def test_the_first_update_starts_the_line_before_its_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    with Console(quiet=True).progress("train", resumed=False) as line:
        line.update(7, 100, "steps")
        clock[0] = 2.0
        line.update(11, 100, "steps", "loss 1")
        assert (line.done, line.total, line.rate(), line.note) == (11, 100, "2.5 steps/s", "loss 1")


def test_progress_is_printed_now_and_then_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    with Console().progress("embed", resumed=False) as line:
        line.start(1000, "crops")
        for clock[0] in (10.0, 20.0, 40.0, 50.0):
            line.advance(100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[0].split() == ["embed", "300/1000", "7.5", "crops/s"]


def test_only_the_first_failures_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"photo": f"{n}.jpg", "reason": "is empty", "remedy": "remove it"} for n in range(7)]
    log_failures(rows, Path("failures.jsonl"))
    lines = [record.getMessage() for record in caplog.records]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert lines[0] == "'0.jpg': is empty; remove it" and lines[5:] == ["... and 2 more, in failures.jsonl"]


def test_the_noun_agrees_with_the_number() -> None:
    assert [quantity(number, "face") for number in (0, 1, 2)] == ["0 faces", "1 face", "2 faces"]
    assert [quantity(number, "person", "people") for number in (0, 1, 2)] == ["0 people", "1 person", "2 people"]


@pytest.mark.parametrize(("count", "amount"), [(1, "1 photo "), (2, "2 photos ")])
def test_the_unit_of_progress_agrees_with_the_amount(
    count: int, amount: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Console().progress("align", resumed=False) as line:
        line.start(count, "photos")
        line.advance(count)
    assert f" s  {amount}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "text"),
    [([], ""), (["a"], "a"), (["a", "b", "c"], "a, b, c"), (["x" * 99, *"bcde"], f"{'x' * 80}, b, c and 2 more")],
)
def test_a_few_names_stand_for_many(names: list[str], text: str) -> None:
    assert first_names(names) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (2880, "2.9 kB"), (3_400_000, "3.4 MB"), (5.6e9, "5.6 GB"),
     (7 * 10**12, "7.0 TB")],
)  # fmt: skip
def test_bytes_have_the_unit_that_shows_them_best(number: int, text: str) -> None:
    assert byte_count(number) == text
