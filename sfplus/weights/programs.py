"""Models that are programs: TorchScript, `torch.export` and functions of the user's own modules.

Such a model can do what its author wrote. It is therefore only loaded when the user names the file or the function
itself, never from a model folder or the Hugging Face Hub, and pickles inside an archive are not read.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfplus.errors import UsageError, WeightsError, first_line, warn_user
from sfplus.io.import_path import import_object
from sfplus.weights.checkpoint_file import check_archive

# What a shape of torch.export, which its loader evaluates, may consist of.
_SYMBOL = re.compile(r"Symbol\('[a-z]+\d+'(, \w+=(True|False))*\)")
_SHAPE_NAME = re.compile(
    r"[suiz]\d+|Add|Mul|Pow|Max|Min|Mod|FloorDiv|CleanDiv|CeilDiv|PythonMod|Integer|Rational|Eq|Ne|Equality|Unequality"
    r"|(Strict)?(Greater|Less)Than|oo|int_oo"
)


def call_function(name: str) -> Any:
    """Import `package.module:function`, also from the current folder, and return what the function returns.

    Raises:
        UsageError: If the module or the function does not exist, or the module cannot be imported.
        WeightsError: If the function fails.
    """
    target = import_object(name)
    if not callable(target):
        raise UsageError("is not a function", where=name, remedy="name a function that returns the network")
    try:
        return target()
    except Exception as error:  # code of the user's
        reason = f"failed ({type(error).__name__}: {first_line(error)})"
        raise WeightsError(reason, where=name, remedy="mend this function") from error


def load_function(name: str) -> nn.Module | Callable[[Tensor], Any]:
    """Return the network that `package.module:function` makes: a module in evaluation mode, or another callable.

    Raises:
        UsageError: If there is no such function, or it returns nothing that can be called.
        WeightsError: If the function fails.
    """
    network = call_function(name)
    if isinstance(network, nn.Module):
        return network.to("cpu", torch.float32).eval()
    if not callable(network):
        reason = f"returns {type(network).__name__}, not a network"
        raise UsageError(reason, where=name, remedy="return a torch.nn.Module, or a function of the crops")
    return network  # type: ignore[no-any-return]


def is_torchscript(path: Path) -> bool:
    """Return whether a file is an archive of TorchScript."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def load_torchscript(path: Path) -> nn.Module:
    """Load a TorchScript file, in evaluation mode on the CPU.

    Raises:
        WeightsError: If the file is damaged or needs another version of torch.
    """
    _announce(path, "TorchScript")
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated
            network: nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except WeightsError:
        raise
    except Exception as error:  # torch has no common exception
        raise _unreadable(path, "TorchScript", error) from None
    return network.float().eval()


def load_exported_program(path: Path) -> nn.Module:
    """Load a file of `torch.export.save`, on the CPU, without reading a pickle.

    The loader of torch would unpickle example inputs, which are left out, and tensors that are marked so and custom
    objects, which are refused; it evaluates shapes, which must be symbols and arithmetic.

    Raises:
        WeightsError: If the file is damaged, has pickles or AOTInductor libraries, or is of another version of torch.
    """
    _announce(path, "torch.export")
    data = _without_pickles(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(io.BytesIO(data))
        return program.module()
    except Exception as error:  # torch has no common exception
        raise _unreadable(path, "torch.export", error) from None


def _without_pickles(path: Path) -> bytes:
    """Return the bytes of an archive without the example inputs, after checking its other members."""
    copy = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as target:
            check_archive(archive, path)
            for member in archive.infolist():
                _, _, name = member.filename.partition("/")
                content = b"" if name.startswith("data/sample_inputs/") else archive.read(member)
                _check_member(path, name, content)
                target.writestr(member.filename, content)
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise _unreadable(path, "torch.export", error) from None
    return copy.getvalue()


def _check_member(path: Path, name: str, content: bytes) -> None:
    remedy = "export it again: torch.export.save(torch.export.export(...))"
    if name.startswith("data/aotinductor/") or name.startswith("serialized_"):
        kind = "compiled libraries" if name.startswith("data/") else "a format of torch before 2.9"
        raise WeightsError(f"contains {kind}, which is not read", where=path, remedy=remedy)
    if not name.endswith(".json"):
        return
    try:
        values = list(_walk(json.loads(content)))
    except (ValueError, RecursionError):
        raise WeightsError(f"its {name} is damaged", where=path, remedy="get the file again") from None
    for key, value in values:
        custom = key == "path_name" and str(value).startswith(("custom_obj", "opaque", "script_obj"))
        if (key == "use_pickle" and value is not False) or custom:
            raise WeightsError("contains pickles, which can run code", where=path, remedy=remedy)
        if key in ("expr_str", "as_expr") and isinstance(value, str) and not _is_arithmetic(value):
            raise WeightsError(f"has a shape '{value[:40]}' that is not arithmetic", where=path, remedy=remedy)


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of nested JSON."""
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, dict):
            yield from current.items()
            pending.extend(current.values())
        elif isinstance(current, list):
            pending.extend(current)


def _is_arithmetic(expression: str) -> bool:
    expression = _SYMBOL.sub("0", expression)
    names = re.findall(r"[A-Za-z_]\w*", expression)
    symbols = set(re.sub(r"\w+", "", expression))
    return all(map(_SHAPE_NAME.fullmatch, names)) and symbols <= set(" +-*/(),<>=&|~.%")


def _announce(path: Path, kind: str) -> None:
    warn_user(f"{path}: is a program ({kind}) and runs as one; use only files that you trust")


def _unreadable(path: Path, kind: str, error: Exception) -> WeightsError:
    remedy = f"export it again with torch {torch.__version__.partition('+')[0]}"
    return WeightsError(f"is not a readable {kind} file ({first_line(error)})", where=path, remedy=remedy)
