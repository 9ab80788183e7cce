"""Limits on foreign files: defaults, environment variables, messages."""

import pytest

from sfplus.errors import PhotoError, SfplusError, UsageError
from sfplus.io.limits import LIMITS, check_expansion, check_limit, limit


@pytest.mark.parametrize("name", LIMITS)
def test_each_limit_has_an_environment_variable(name, monkeypatch):
    assert limit(name) == LIMITS[name][0] > 0
    monkeypatch.setenv(f"SFPLUS_MAX_{name.upper()}", "7")
    assert limit(name) == 7
    check_limit(name, 7, "file")
    with pytest.raises(SfplusError, match=rf"file: has 8 .*limit of 7; .*SFPLUS_MAX_{name.upper()}=8"):
        check_limit(name, 8, "file")


@pytest.mark.parametrize("text", ["0", "-1", "1e8", "many", "9" * 5000, "٣", " "])
def test_refuses_other_values(text, monkeypatch):
    monkeypatch.setenv("SFPLUS_MAX_PHOTO_PIXELS", text)
    with pytest.raises(UsageError, match=r"SFPLUS_MAX_PHOTO_PIXELS: .* is not a positive integer"):
        limit("photo_pixels")


def test_raises_the_class_of_the_caller():
    with pytest.raises(PhotoError):
        check_limit("photo_pixels", 1 << 40, "photo.png", error=PhotoError)


def test_what_expands_too_much_is_refused(monkeypatch):
    check_expansion(64 << 20, 1, "a.npz")
    check_expansion(30 << 30, 1 << 30, "a.npz")
    with pytest.raises(PhotoError, match=r"a.npz: 1,000 bytes expand to 100,000,000, more than 30 times .*EXPANSION=1"):
        check_expansion(100_000_000, 1000, "a.npz", error=PhotoError)
    monkeypatch.setenv("SFPLUS_MAX_EXPANSION", "100000")
    check_expansion(100_000_000, 1000, "a.npz")
