"""`sfplus doctor`: what is installed and found, and what is wrong, each with its remedy."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from sfplus.artifacts.context import RunContext
from sfplus.io.resources import shipped_models

_LOW_DISK = 2e9  # bytes


def examine(workspace: Path) -> int:
    """Print the examination; returns 1 when something is wrong."""
    faults = 0
    for name, text, fault in _findings(workspace):
        print(f"{'wrong' if fault else 'ok':<6} {name:<16} {text}{'; ' + fault if fault else ''}")
        faults += bool(fault)
    return int(faults > 0)


def _findings(workspace: Path) -> Iterator[tuple[str, str, str]]:
    """Name, what was found, and the remedy where it is wrong."""
    for package, version in RunContext.versions().items():
        lacks = version == "missing" and package != "facenet-pytorch"  # that one is for `_detector` to judge
        yield package, version, f"pip install {package}" if lacks else ""
    yield _detector()
    yield from _devices()
    yield "threads", f"{os.cpu_count()} cores", ""
    here = next(folder for folder in (workspace.absolute(), *workspace.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(here).free
    yield "free disk", f"{free / 1e9:.1f} GB at {here}", "free some space" if free < _LOW_DISK else ""
    yield "writable", str(here), "" if os.access(here, os.W_OK) else "choose another --workspace"
    yield "models", ", ".join(shipped_models()) or "none", ""
    for name, path in (("LFW", workspace / "lfw" / "pairs.txt"), ("CASIA-WebFace", workspace / "CASIA-WebFace")):
        yield name, str(path) if path.exists() else f"not at {path} (needed by its recipes only)", ""


def _detector() -> tuple[str, str, str]:
    from sfplus.errors import SfplusError

    try:
        from sfplus.detection import Detector

        Detector(device="cpu")
    except SfplusError as error:
        return "detector", error.reason, error.remedy
    except ImportError as error:
        return "detector", f"cannot be imported ({error})", "install sfplus again, see README.md"
    return "detector", "P-, R- and O-Net load", ""


def _devices() -> Iterator[tuple[str, str, str]]:
    try:
        import torch
    except ImportError as error:
        yield "device", f"torch cannot be imported ({error})", "pip install torch"
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(count)]
    yield "device", ", ".join(names) or "cpu only", ""
    if sys.platform == "linux" and not count and Path("/proc/driver/nvidia").exists():
        yield "cuda", "there is an NVIDIA driver, but torch cannot use it", "install a torch that fits the driver"
