"""The commands and their inputs, which the tests of faults share."""

from collections.abc import Iterator

import pytest
from fault_runs import FaultRuns, fault_runs


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultRuns]:
    """Runs of all commands that write, with faults."""
    with fault_runs(tmp_path_factory.mktemp("faults")) as started:
        yield started
