"""Check what is installed, which devices, data and models exist, and what is wrong, each with its remedy."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from sfplus import detection
from sfplus.artifacts.context import RunContext
from sfplus.cli.command import App
from sfplus.cli.json_results import Check, print_result
from sfplus.cli.options import DATA, AsJson, Workspace
from sfplus.errors import SfplusError, first_line
from sfplus.io.extras import EXTRAS, install_command, pip_command
from sfplus.io.resources import shipped_models

app = App()
_LOW_DISK = 2e9  # bytes


@app.command()
def doctor(workspace: Workspace = DATA, as_json: AsJson = False) -> None:
    """Check what is installed, which devices, data and models exist, and what is wrong.

    Example: sfplus doctor
    """
    checks = [Check(name, not remedy, text, remedy) for name, text, remedy in _checks(workspace)]
    lines = (
        f"{'ok' if check.ok else 'wrong':<6} {check.name:<16} {'; '.join(filter(None, (check.text, check.remedy)))}"
        for check in checks
    )
    print_result(checks, lines, as_json)
    raise typer.Exit(not all(check.ok for check in checks))


def _checks(workspace: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the name and the result of each check, and the remedy if something is wrong."""
    for package, version in RunContext.versions().items():
        missing = version == "missing" and package != "facenet-pytorch"  # which `_check_detector` loads
        yield package, version, f"{pip_command()} install {package}" if missing else ""
    yield _check_detector()
    for extra, (purpose, modules) in EXTRAS.items():
        absent = [module for module in modules if importlib.util.find_spec(module) is None]
        yield f"extra {extra}", f"not installed; {purpose}: {install_command(extra)}" if absent else purpose, ""
    yield from _check_devices()
    yield "threads", f"{os.cpu_count()} cores", ""
    folder = next(folder for folder in (workspace.absolute(), *workspace.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(folder).free
    yield "free disk", f"{free / 1e9:.1f} GB at {folder}", "free some space" if free < _LOW_DISK else ""
    yield "writable", str(folder), "" if os.access(folder, os.W_OK) else "choose another --workspace"
    yield "models", ", ".join(shipped_models()) or "none", ""
    for name, path in (("LFW", workspace / "lfw" / "pairs.txt"), ("CASIA-WebFace", workspace / "CASIA-WebFace")):
        yield name, str(path) if path.exists() else f"not at {path} (only its recipes need it)", ""


def _check_detector() -> tuple[str, str, str]:
    try:
        detection.Detector(device="cpu")  # imports its packages now, so that a broken one is reported
    except SfplusError as error:
        return "detector", error.reason, error.remedy
    except Exception as error:  # packages that do not fit together, such as torch and torchvision, fail in many ways
        remedy = f"{pip_command()} install --force-reinstall torch torchvision"
        return "detector", f"cannot be imported ({first_line(error)})", remedy
    return "detector", "P-, R- and O-Net load", ""


def _check_devices() -> Iterator[tuple[str, str, str]]:
    try:
        import torch  # here, so that a broken torch is reported
    except ImportError as error:
        yield "device", f"torch cannot be imported ({error})", f"{pip_command()} install torch torchvision"
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(count)]
    yield "device", ", ".join(names) or "cpu only", ""
    if sys.platform == "linux" and not count and Path("/proc/driver/nvidia").exists():
        yield "cuda", "there is an NVIDIA driver, but torch cannot use it", "install a torch that fits the driver"
