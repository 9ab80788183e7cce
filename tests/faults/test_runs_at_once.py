"""The same command twice at once: both end with the right files, or one of them says in one line why it does not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fault_cases import SLOW, cases, is_one_line
from fault_runs import FaultRuns

# Cases whose commands write to the same place: parts, crops, models, checkpoints.
SHARED = {"align", "detect", "group", "models fetch", "models fetch from the Hub", "run", "stage train"}
NAMES = sorted(SHARED | set(random.Random(17).sample(sorted(set(cases(Path(), "")) - SLOW - SHARED), 14)))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_of_a_command_leave_the_files_of_one(runs: FaultRuns, name: str) -> None:
    case = runs.cases[name]
    runs.undisturbed(case)
    runs.prepare(case)
    both = [runs.server.start(runs.folder, *case.words, patches=case.patches) for _ in range(2)]
    answers = sorted((command.wait() for command in both), key=lambda answer: answer.code)
    assert answers[0].code == 0, answers
    assert answers[1].code == 0 or is_one_line(answers[1].err), answers[1].err
    assert runs.compare(case) == []
