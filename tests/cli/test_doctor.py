"""`sfplus doctor` checks the installation."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sfplus.io.extras import install_command, pip_command


def test_doctor_lists_packages_and_reports_a_missing_one(
    sfplus: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answer = sfplus("doctor", "--workspace", tmp_path)
    assert answer.code == 0 and f"torch            {torch.__version__.split('+')[0]}" in answer.out
    assert "P-, R- and O-Net load" in answer.out and "wrong" not in answer.out
    assert "extra heic       HEIC photos of iPhones\n" in answer.out
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # an optional extra
    answer = sfplus("doctor", "--workspace", tmp_path)
    line = f"extra heic       not installed; HEIC photos of iPhones: {install_command('heic')}\n"
    assert answer.code == 0 and line in answer.out
    with monkeypatch.context() as broken:  # as torchvision fails beside another torch
        broken.setattr("sfplus.detection.Detector", lambda **_: torch.ops.torchvision.no_such_operator())
        answer = sfplus("doctor", "--workspace", tmp_path)
    assert answer.code == 1 and "wrong  detector         cannot be imported (" in answer.out
    assert "install --force-reinstall torch torchvision" in answer.out
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    answer = sfplus("doctor", "--workspace", tmp_path)
    assert answer.code == 1 and f"{pip_command()} install --no-deps facenet-pytorch" in answer.out
