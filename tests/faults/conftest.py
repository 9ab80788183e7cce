"""The commands and their inputs, which the tests of faults share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_runs import FaultRuns, fault_runs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of a case one after the other, so that one process runs them and its undisturbed run once."""
    here = [number for number, item in enumerate(items) if item.path.is_relative_to(Path(__file__).parent)]
    of_cases = sorted((items[number] for number in here), key=_case)
    for number, item in zip(here, of_cases, strict=True):
        items[number] = item


def _case(item: pytest.Item) -> str:
    """Return the name of the case; "" for a test of none, which comes first."""
    return item.callspec.params["name"] if "runs" in getattr(item, "fixturenames", ()) else ""  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultRuns]:
    """Runs of all commands that write, with faults."""
    with fault_runs(tmp_path_factory.mktemp("faults")) as started:
        yield started
