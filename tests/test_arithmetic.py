"""`exact_arithmetic` in programs that have settings of their own."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import torch

from sfplus.arithmetic import exact_arithmetic

backends: Any = torch.backends

PROGRAMS = [
    "pass",
    "b.cudnn.conv.fp32_precision = 'tf32'",
    "torch.set_float32_matmul_precision('medium')",
    "torch.set_float32_matmul_precision('high')",
    "b.cudnn.allow_tf32, b.cuda.matmul.allow_tf32 = False, True",
    "b.fp32_precision = 'tf32'",
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
    os._exit(0)
"""


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


def test_autocast_around_it_has_no_effect_inside() -> None:
    square = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with exact_arithmetic("cpu"):
            assert (square @ square).dtype == torch.float32
        assert (square @ square).dtype == torch.bfloat16
