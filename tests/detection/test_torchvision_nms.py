"""The operators of torchvision without its import."""

import sys
from pathlib import Path

import pytest
import torch

from sfplus.detection import torchvision_nms
from sfplus.errors import DependencyError
from sfplus.networks import backbones


@pytest.mark.parametrize("error", ["ImportError", "RuntimeError"])  # absent; built for another torch
def test_a_torchvision_that_does_not_work_is_named(error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise OSError

    text = "operator torchvision::nms does not exist"
    (tmp_path / "torchvision.py").write_text(f"raise {error}('{text}')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(torch.ops, "load_library", refuse)
    for user in (
        torchvision_nms._load_operators,
        lambda: backbones.build("torchvision:resnet18", feature_size=8, crop_size=(112, 96)),
    ):
        with pytest.raises(
            DependencyError, match=f"cannot be imported beside the installed torch \\({text}\\)"
        ) as caught:
            user()
        assert caught.value.where == "torchvision" and "--force-reinstall torch torchvision" in caught.value.remedy
