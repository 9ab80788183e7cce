"""What a run says about its device."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import sfplus.device
from sfplus.artifacts.context import RunContext
from sfplus.device import Device, choose_device
from sfplus.io.console import Console

T4 = Device(torch.device("cuda", 0))
SCALER = ", because fp16 needs a gradient scaler, which this training does not have"


@pytest.mark.parametrize(
    ("device", "name", "fp16", "line"),
    [
        ("cpu", "auto", True, ""), ("cpu", "float32", False, ""), ("cpu", "bf16", True, "precision: bf16\n"),
        ("T4", "auto", True, "precision: fp16\n"), ("T4", "auto", False, f"precision: float32{SCALER}\n"),
        ("T4", "float32", True, "precision: float32\n"),
    ],
)  # fmt: skip
def test_the_precision_is_said_where_the_device_is(
    device: str,
    name: str,
    fp16: bool,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    chosen = choose_device("cpu") if device == "cpu" else T4
    monkeypatch.setattr(sfplus.device, "choose_device", lambda _: chosen)
    monkeypatch.setattr(Device, "describe", lambda self: device)
    monkeypatch.setattr(Device, "_fastest", lambda self, fp16: "fp16" if fp16 and self.is_cuda else "float32")
    caplog.set_level(logging.INFO, "sfplus")
    context = RunContext(tmp_path, Console())
    for _ in range(2):
        context.log_precision(name, fp16)
    assert "".join(f"{record.getMessage()}\n" for record in caplog.records) == f"device: {device}\n{line}"
