import pytest

from sfplus import errors
from sfplus.errors import (
    DeviceError,
    PhotoError,
    SfplusError,
    UsageError,
    WeightsError,
    explain_damage,
    one_line,
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


@pytest.mark.parametrize(("kind", "code"), [(UsageError, 2), (DeviceError, 2), (PhotoError, 1), (SfplusError, 1)])
def test_misuse_exits_with_2_and_failure_with_1(kind: type[SfplusError], code: int) -> None:
    assert kind("x").exit_code == code


def test_all_errors_form_one_tree() -> None:
    kinds = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert len(kinds) > 5 and all(issubclass(kind, SfplusError) for kind in kinds)


def test_the_most_similar_name_is_suggested() -> None:
    assert suggest("sphereface21", {"sphereface20": 1, "sphereface64": 2}) == "did you mean 'sphereface20'?"
    assert suggest("netwrk", iter(["head", "network"])) == "did you mean 'network'?"
    assert suggest("x", ["network"]) == suggest("x", []) == ""


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (ValueError("bad\nsecond line"), "is damaged (bad)"),
        (KeyError(), "is damaged (KeyError)"),
        (RuntimeError("\x1b[2Jcleared"), r"is damaged (\x1b[2Jcleared)"),
        (OSError(5, "Input/output error"), "is damaged (Input/output error)"),
        (MemoryError(), "does not fit into memory"),
    ],
)
def test_damage_is_explained_in_one_line(fault, reason):
    with pytest.raises(WeightsError) as caught, explain_damage("m.bin", remedy="get it again", error=WeightsError):
        raise fault
    assert str(caught.value) == f"m.bin: {reason}; get it again"
    with pytest.raises(UsageError), explain_damage("m.bin", remedy="get it again"):
        raise UsageError("is ours")
