"""`exact_arithmetic` in programs that have settings of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import warnings
from typing import Any

import pytest
import torch

from sfplus import arithmetic
from sfplus.arithmetic import exact_arithmetic

backends: Any = torch.backends

PROGRAMS = [
    "pass",
    "b.cudnn.conv.fp32_precision = 'tf32'",
    "torch.set_float32_matmul_precision('medium')",
    "torch.set_float32_matmul_precision('high')",
    "b.cudnn.allow_tf32, b.cuda.matmul.allow_tf32 = False, True",
    "b.fp32_precision = 'tf32'",
    "b.cudnn.fp32_precision = 'tf32'",
    "b.mkldnn.matmul.fp32_precision = 'bf16'",
    "b.cudnn.benchmark = True",
]

CODE = """
import os, sys, torch
from sfplus.arithmetic import exact_arithmetic
b = torch.backends
def state():
    result = [b.cudnn.deterministic, b.cudnn.benchmark]
    for read in (
        lambda: b.cudnn.allow_tf32, lambda: b.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision,
        lambda: [o.fp32_precision for o in (b, b.cudnn, b.cudnn.conv, b.cudnn.rnn, b.cuda.matmul)],
        lambda: [o.fp32_precision for o in (b.mkldnn.conv, b.mkldnn.rnn, b.mkldnn.matmul)],
    ):
        try:
            result.append(read())
        except RuntimeError as error:
            result.append(str(error))
    return result
for program in sys.argv[1:]:
    if os.fork():
        status = os.wait()[1]
        assert status == 0, program
        continue
    exec(program)
    before = state()
    with exact_arithmetic("cpu"):
        inside = state()
        with exact_arithmetic("cpu"):
            pass
        assert state() == inside
    assert inside[:5] == [True, False, False, False, "highest"], inside
    assert set(inside[5][2:] + inside[6]) == {"ieee"}, inside
    assert state() == before, (state(), before)
    for settings in (b, b.cudnn):  # each operation without a setting of its own follows
        if settings.fp32_precision != "none":
            was, settings.fp32_precision = settings.fp32_precision, "none"
            operations = [b.cudnn.conv, b.cuda.matmul, b.mkldnn.conv, b.mkldnn.rnn, b.mkldnn.matmul]
            assert was not in [o.fp32_precision for o in operations], "a precision of the backend was set for good"
    os._exit(0)
"""


@pytest.mark.slow
def test_the_settings_of_the_program_are_restored() -> None:
    """Each program runs in a process of its own, since torch cannot undo all of these settings."""
    answer = subprocess.run([sys.executable, "-c", CODE, *PROGRAMS], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_settings_stay_until_the_last_thread_leaves() -> None:
    """In this order a plain context manager would restore too early and then leave the changed settings behind."""
    before, inside = backends.cudnn.deterministic, []
    entered, left = threading.Event(), threading.Event()

    def other() -> None:
        with exact_arithmetic("cpu"):
            entered.set()
            left.wait()
            inside.append(backends.cudnn.deterministic)

    thread = threading.Thread(target=other)
    with exact_arithmetic("cpu"):
        thread.start()
        entered.wait()
    left.set()
    thread.join()
    assert inside == [True] and backends.cudnn.deterministic is before is False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("inside", [False, True])
def test_a_forked_process_restores_the_settings_when_its_own_thread_leaves(inside: bool) -> None:
    """Another thread is inside at the time of the fork, and does not exist in the forked process."""
    entered, left = threading.Event(), threading.Event()

    def other() -> None:
        with exact_arithmetic("cpu"):
            entered.set()
            left.wait()

    def fork() -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks of threaded processes
            return os.fork()

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait()
    own = exact_arithmetic("cpu") if inside else contextlib.nullcontext()
    with own:
        child = fork()
        seen = [backends.cudnn.deterministic]
        with exact_arithmetic("cpu"):
            seen.append(backends.cudnn.deterministic)
        seen.append(backends.cudnn.deterministic)
    if not child:
        seen.append(backends.cudnn.deterministic)
        os._exit(seen != [inside, True, inside, False])
    left.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert seen == [True] * 3 and not backends.cudnn.deterministic


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_waits_for_a_thread_that_changes_the_settings() -> None:
    arithmetic._lock.acquire()
    threading.Timer(0.1, arithmetic._lock.release).start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        os._exit(arithmetic._lock.locked())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 and not arithmetic._lock.locked()


def test_autocast_around_it_has_no_effect_inside() -> None:
    square = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with exact_arithmetic("cpu"):
            assert (square @ square).dtype == torch.float32
        assert (square @ square).dtype == torch.bfloat16
