import pickle

import pytest

from sfplus import errors
from sfplus.errors import (
    DeviceError,
    PhotoError,
    SfplusError,
    UsageError,
    WeightsError,
    cut,
    escape_controls,
    explain_damage,
    one_line,
    short_repr,
    suggest,
)


def test_the_message_contains_file_reason_and_remedy() -> None:
    error = PhotoError("is cut short", where="a/b.jpg", remedy="get it again")
    assert str(error) == "a/b.jpg: is cut short; get it again"


def test_the_message_without_file_or_remedy_is_the_reason() -> None:
    assert str(SfplusError("is wrong")) == "is wrong"


def test_names_with_line_breaks_stay_on_one_line() -> None:
    error = PhotoError("bad", where="a\nsfplus: all is well\x1b[2J.jpg")
    assert "\n" not in str(error) and "\x1b" not in str(error)
    assert one_line("Zoë\tX") == "Zoë\\tX"


@pytest.mark.parametrize(
    "control",
    ["\x00", "\x07", "\r", "\x1b", "\x7f", "\x9b", "\xad", "\u061c", "\u200b", "\u200e", "\u2028", "\u2029", "\u202a",
     "\u202e", "\u2060", "\u2066", "\u2069", "\ufeff", "\ufff9", "\udcff", "\ud800", "\U000e0001", "\U000e0041"],
)  # fmt: skip
def test_controls_are_escaped(control: str) -> None:
    escaped = f"a{control.encode('unicode_escape').decode()}b"
    assert one_line(f"a{control}b") == escape_controls(f"a{control}b") == escaped
    assert str(SfplusError(f"a{control}b")) == escaped


def test_names_of_any_script_stay_as_they_are() -> None:
    for text in ("Zoë", "می\u200cخواهم", "क्\u200dष", "全角\u3000空白", "👩\u200d👩\u200d👧", "a\xa0b"):
        assert one_line(text) == escape_controls(text) == text
    assert escape_controls("a\n\tb\n") == "a\n\tb\n"


def test_long_values_are_cut() -> None:
    error = SfplusError("r" * 10**6, where="w" * 10**6, remedy="m" * 10**6)
    assert len(str(error)) < 3100 and "r...r" in str(error)
    assert cut("abcdefghij", 7) == "ab...ij" and cut("abcdefg", 7) == "abcdefg"


_NESTED: list = []
for _ in range(100_000):
    _NESTED = [_NESTED]
_WIDE: list = ["a"]
for _ in range(60):
    _WIDE = [_WIDE, _WIDE]
_LOOP: list = []
_LOOP.append(_LOOP)


@pytest.mark.parametrize(
    "value", [_NESTED, _WIDE, _LOOP, 10**6000, -(10**6000), "x" * 10**6, {"k" * 999: 10**5000}], ids=range(7)
)
def test_any_value_has_a_short_description(value: object) -> None:
    assert 0 < len(short_repr(value)) <= 200


def test_small_values_are_described_as_by_python() -> None:
    for value in (1, "ä", None, [1, "b"], {"a": 1.5}, True, 10**39):
        assert short_repr(value) == repr(value)


@pytest.mark.parametrize(("kind", "code"), [(UsageError, 2), (DeviceError, 2), (PhotoError, 1), (SfplusError, 1)])
def test_misuse_exits_with_2_and_failure_with_1(kind: type[SfplusError], code: int) -> None:
    assert kind("x").exit_code == code


def test_all_errors_form_one_tree() -> None:
    kinds = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert len(kinds) > 5 and all(issubclass(kind, (SfplusError, Warning)) for kind in kinds)


def test_the_most_similar_name_is_suggested() -> None:
    assert suggest("sphereface21", {"sphereface20": 1, "sphereface64": 2}) == "did you mean 'sphereface20'?"
    assert suggest("netwrk", iter(["head", "network"])) == "did you mean 'network'?"
    assert suggest("x", ["network"]) == suggest("x", []) == ""


def test_errors_return_from_other_processes():
    error = errors.NoUsablePhotoError("none", where="photos", remedy="add some", failures=[{"photo": "a.jpg"}])
    for original in (PhotoError("is empty", where="a.jpg", remedy="get it again"), error):
        copy = pickle.loads(pickle.dumps(original))
        assert type(copy) is type(original) and str(copy) == str(original) and copy.__dict__ == original.__dict__


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (ValueError("bad\nsecond line"), "is damaged (bad)"),
        (KeyError(), "is damaged (KeyError)"),
        (RuntimeError("\x1b[2Jcleared"), r"is damaged (\x1b[2Jcleared)"),
        (OSError(5, "Input/output error"), "cannot be read: Input/output error"),
        (MemoryError(), "does not fit into memory"),
    ],
)
def test_damage_is_explained_in_one_line(fault, reason):
    with pytest.raises(WeightsError) as caught, explain_damage("m.bin", remedy="get it again", error=WeightsError):
        raise fault
    assert str(caught.value) == f"m.bin: {reason}; get it again"
    with pytest.raises(UsageError), explain_damage("m.bin", remedy="get it again"):
        raise UsageError("is ours")
