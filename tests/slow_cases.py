"""Parametrizations of which the fast tests run some cases, and the slow ones the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def mostly_slow(cases: Iterable[Any], fast: Collection[Any]) -> list[Any]:
    """Mark all cases `slow` but these; a tuple is a case of several arguments."""
    cases = list(cases)
    assert fast and all(case in cases for case in fast), "a fast case is not among the cases"
    return [case if case in fast else slow(*(case if isinstance(case, tuple) else (case,))) for case in cases]


def partly_slow(cases: Iterable[Any], slow_ones: Collection[Any]) -> list[Any]:
    """Mark these cases `slow`."""
    cases = list(cases)
    assert all(case in cases for case in slow_ones), "a slow case is not among the cases"
    return mostly_slow(cases, [case for case in cases if case not in slow_ones])


def slow(*case: Any, id: str | None = None) -> Any:
    """Mark one case `slow`."""
    return pytest.param(*case, marks=pytest.mark.slow, id=id)
