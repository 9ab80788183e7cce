import pytest

from sfplus import errors
from sfplus.errors import DeviceError, PhotoError, SfplusError, UsageError, one_line


def test_message_holds_file_reason_and_remedy() -> None:
    error = PhotoError("is cut short", where="a/b.jpg", remedy="get it again")
    assert str(error) == "a/b.jpg: is cut short; get it again"


def test_message_without_file_or_remedy() -> None:
    assert str(SfplusError("is wrong")) == "is wrong"


def test_names_with_line_breaks_stay_on_one_line() -> None:
    error = PhotoError("bad", where="a\nsfplus: all is well\x1b[2J.jpg")
    assert "\n" not in str(error) and "\x1b" not in str(error)
    assert one_line("Zoë\tX") == "Zoë\\tX"


@pytest.mark.parametrize(("kind", "code"), [(UsageError, 2), (DeviceError, 2), (PhotoError, 1), (SfplusError, 1)])
def test_exit_codes(kind: type[SfplusError], code: int) -> None:
    assert kind("x").exit_code == code


def test_all_errors_form_one_tree() -> None:
    kinds = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert len(kinds) > 5 and all(issubclass(kind, SfplusError) for kind in kinds)
