"""The packages of sfplus: its optional extras, the commands that install them, and the import of torchvision."""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import sys
from pathlib import Path
from types import MappingProxyType, ModuleType

from sfplus.errors import DependencyError, first_line

# extra -> (what it adds, the modules that it needs)
EXTRAS = MappingProxyType(
    {
        "app": ("the local page of sfplus app", ("starlette", "uvicorn")),
        "heic": ("HEIC photos of iPhones", ("pillow_heif",)),
        "onnx": ("models as ONNX files", ("onnx", "onnxscript", "onnxruntime")),
        "timm": ("timm: networks", ("timm",)),
        "faiss": ("the search for neighbours among more than 200,000 faces", ("faiss",)),
        "scores": ("Inception score and FID of generated images", ("torchmetrics", "torch_fidelity")),
    }
)


def install_command(extra: str) -> str:
    """Return the command that installs an extra for the Python that runs: from the checkout, if this is one.

    Args:
        extra: a key of `EXTRAS`.
    """
    checkout = Path(__file__).parents[2]
    if not (checkout / "pyproject.toml").is_file():
        return f"{pip_command()} install 'sfplus[{extra}]'"
    folder = "." if checkout == Path.cwd() else str(checkout)
    return f"{pip_command()} install -e {shlex.quote(f'{folder}[{extra}]')}"


def pip_command() -> str:
    """Return `pip`, or the full command where the `pip` of the shell belongs to another Python."""
    bin_folder = Path(sys.executable).parent
    if Path(shutil.which("pip") or "").parent == bin_folder:
        return "pip"
    python = os.path.relpath(sys.executable) if bin_folder.is_relative_to(Path.cwd()) else sys.executable
    return f"{shlex.quote(python)} -m pip"


def import_torchvision() -> ModuleType:
    """Import torchvision.

    Raises:
        DependencyError: If it is missing, or was built for another torch.
    """
    try:
        return importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as error:  # a build for another torch lacks its operators
        reason = f"cannot be imported beside the installed torch ({first_line(error)})"
        remedy = f"install both together: {pip_command()} install --force-reinstall torch torchvision"
        raise DependencyError(reason, where="torchvision", remedy=remedy) from error
