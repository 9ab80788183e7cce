"""kill -9 of every stage and every command that writes: the same command ends with the same files and no leftovers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fault_cases import SLOW, cases
from fault_runs import FaultRuns

NAMES = sorted(cases(Path(), ""))
KILLS = 50


def random_kills() -> list[tuple[str, str, float]]:
    """Return case, kind and fraction of each kill: every case at least once, and between the parts of `embed`."""
    rng = random.Random(17)
    names = NAMES + rng.sample(sorted(set(NAMES) - SLOW), KILLS - len(NAMES))
    kinds = ["change", "change", "bytes", "time"]
    kills = [(name, rng.choice(kinds), round(rng.random(), 2)) for name in names]
    return sorted([*kills, *(("embed crops", "change", fraction) for fraction in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9))])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind", "fraction"), random_kills())
def test_a_killed_command_ends_with_the_same_files_when_it_is_run_again(
    runs: FaultRuns, name: str, kind: str, fraction: float
) -> None:
    case = runs.cases[name]
    runs.undisturbed(case)
    killed = runs.kill(case, kind, fraction)
    varies = kind == "time" or name == "models fetch from the Hub"  # whose client works in threads
    assert killed.code < 0 or varies, killed
    if runs.compare(case):  # else it was killed after its last change
        answer = runs.run(case)
        assert answer.code == 0, answer.err
    assert runs.compare(case) == []
