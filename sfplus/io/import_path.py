"""Code of the user's by its import path, `package.module:name`: its files, the object, and the options that it takes.

What an import path names is run. It is therefore only taken from the user, on the command line, in Python or in a
recipe, never from a file that describes a model or a set of photos. `find_sources` reads the files and runs nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import re
import sys
import sysconfig
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, PydanticUserError, ValidationError, create_model

from sfplus.errors import UsageError, first_line, short_repr, suggest
from sfplus.io.files import digest_json, file_digest

_FORM = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_MAX_LENGTH = 100  # characters: the name of a network in config.json
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NOT_FOUND = "run the command in the folder that holds the module, or set PYTHONPATH"


def is_import_path(name: str) -> bool:
    """Return whether a text has the form `package.module:name`; what it names may not exist."""
    return len(name) <= _MAX_LENGTH and bool(_FORM.fullmatch(name))


def import_object(path: str) -> Any:
    """Import what `package.module:name` names; this runs the module.

    The module is looked for on `sys.path` and then in the current folder, so that no file of that folder replaces an
    installed module.

    Raises:
        UsageError: If the module or the name does not exist, or the module fails while it is imported.
    """
    module, _, name = path.partition(":")
    try:
        with _current_folder_last():
            target: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = f"{module}.".startswith(f"{error.name}.")
        remedy = _NOT_FOUND if missing else "install what the module imports"
        raise UsageError(f"cannot be imported ({first_line(error)})", where=path, remedy=remedy) from None
    except (Exception, SystemExit) as error:  # code of the user's
        reason = f"cannot be imported ({type(error).__name__}: {first_line(error)})"
        raise UsageError(reason, where=path, remedy="mend this module") from error
    for part in name.split("."):
        if not hasattr(target, part):
            names = [known for known in vars(target) if not known.startswith("_")]
            remedy = suggest(part, names) or "check the name"
            raise UsageError(f"{module} has no '{name}'", where=path, remedy=remedy)
        target = getattr(target, part)
    return target


def find_sources(path: str) -> dict[str, Path]:
    """Return the files that an import path stands for, by the names of their modules, without running them.

    These are the file of the module and those that it imports, directly or not, from its own package or from its
    folder; of an installed package, all its modules. Other installed packages are not among them, nor files that the
    code reads when it runs.

    Raises:
        UsageError: If there is no such module, or it cannot be read.
    """
    module = path.partition(":")[0]
    top = module.partition(".")[0]
    try:
        with _current_folder_last():
            spec = importlib.util.find_spec(top)  # of a name without a dot, nothing is imported
    except (ImportError, ValueError):
        spec = None
    packages = list(spec.submodule_search_locations or ()) if spec else []
    location = spec.origin if spec and spec.has_location else None
    if spec is not None and not (packages or location):
        raise UsageError("is built into Python", where=path, remedy="name a module of your own")
    if spec is None:
        raise UsageError("there is no such module", where=path, remedy=_NOT_FOUND)
    folder = Path(packages[0] if packages else location or "").parent
    if top == "sfplus":  # what it does is covered by the versions of its stages
        return {top: Path(location or "")}
    if not _is_installed(folder):
        return _imported_modules(module, folder, path)
    if not packages:
        return {top: Path(location or "")}
    files = sorted(Path(packages[0]).rglob("*.py"))
    return {".".join(file.relative_to(folder).with_suffix("").parts): file for file in files}


def source_digest(path: str) -> str:
    """Return a digest of the files of `find_sources`, by their modules: the same wherever the folder is.

    Raises:
        UsageError: If there is no such module, or it cannot be read.
    """
    try:
        return digest_json([[name, file_digest(file)] for name, file in find_sources(path).items()])
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror})", where=path, remedy="check the file") from None


def argument_names(target: Any) -> frozenset[str]:
    """Return the names in the signature of a function or class; none if it has no signature."""
    try:
        return frozenset(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return frozenset()


def bind_options(
    target: Callable[..., Any],
    options: Mapping[str, Any],
    where: str,
    supplied: Sequence[str] = (),
    *,
    positional: Sequence[str] = (),
) -> dict[str, Any]:
    """Check options against the signature of a function or class: names, and types where there are annotations.

    Args:
        target: what will be called.
        options: by name.
        where: the import path, for messages.
        supplied: keyword arguments that the caller passes itself, which are not options; `target` must take them.
        positional: what the caller passes as first arguments, in words for messages.

    Returns:
        The options with their values converted as recipes do it, such as a list to a tuple.

    Raises:
        UsageError: If an option is unknown, has a wrong type or is missing, or `target` does not take what is supplied.
    """
    try:
        parameters = dict(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        raise UsageError("is not a function or class with a signature", where=where, remedy="check the name") from None
    first = [name for name, parameter in parameters.items() if parameter.kind in _POSITIONAL][: len(positional)]
    if len(first) < len(positional) and inspect.Parameter.VAR_POSITIONAL not in {p.kind for p in parameters.values()}:
        arguments = ", ".join(positional)
        raise UsageError(f"does not take {arguments} as first arguments", where=where, remedy="change its signature")
    for name in first:
        del parameters[name]
    kinds = {parameter.kind for parameter in parameters.values()}
    takes_any = inspect.Parameter.VAR_KEYWORD in kinds
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    }
    if lacking := [name for name in supplied if name not in named and not takes_any]:
        needed = ", ".join(f"{name}=..." for name in supplied)
        raise UsageError(f"does not take '{lacking[0]}'", where=where, remedy=f"it is called with {needed}")
    known = {name: parameter for name, parameter in named.items() if name not in supplied}
    for name in options:
        if name in supplied or not (name in known or takes_any):
            remedy = suggest(name, known) or (f"its options: {', '.join(known)}" if known else "it has no options")
            raise UsageError(f"has no option '{name}'", where=where, remedy=remedy)
    required = [name for name, parameter in known.items() if parameter.default is parameter.empty]
    if missing := [name for name in required if name not in options]:
        raise UsageError(f"needs the option '{missing[0]}'", where=where, remedy=f"give {', '.join(missing)}")
    return _convert(target, options, where)


def _convert(target: Callable[..., Any], options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return options with their values converted to the annotations of a function or class."""
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except Exception:  # annotations may name what exists for type checkers only
        hints = {}
    fields: dict[str, Any] = {f"option_{name}": (hints.get(name, Any), Field(alias=name)) for name in options}
    try:
        model = create_model("Options", __config__=ConfigDict(arbitrary_types_allowed=True), **fields)
        values = model.model_validate(dict(options))
    except PydanticUserError:  # an annotation that says nothing about values
        return dict(options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        reason = f"{name}: {first['msg']}, not {short_repr(first['input'])}"
        raise UsageError(reason, where=where, remedy="see its signature") from None
    return {name: getattr(values, f"option_{name}") for name in options}


@contextlib.contextmanager
def _current_folder_last() -> Iterator[None]:
    """Look for modules in the current folder too, after all installed ones."""
    folder = str(Path.cwd())
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _is_installed(folder: Path) -> bool:
    """Return whether a folder holds installed packages, not a project."""
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return str(folder) in paths or folder.name in ("site-packages", "dist-packages")


def _imported_modules(module: str, folder: Path, path: str) -> dict[str, Path]:
    """Return the files of a module and of the modules that it imports from a folder."""
    finder = _FolderModules(path=[str(folder)])
    try:
        finder.import_hook(module)
    except ImportError:
        raise UsageError("there is no such module", where=path, remedy=_NOT_FOUND) from None
    except (SyntaxError, ValueError, OSError) as error:
        reason = f"cannot be read ({type(error).__name__}: {first_line(error)})"
        raise UsageError(reason, where=path, remedy="mend this module") from None
    files = {name: getattr(found, "__file__", None) for name, found in finder.modules.items()}
    return {name: Path(file) for name, file in sorted(files.items()) if file}


class _FolderModules(ModuleFinder):
    """Finds what a module imports by reading its code: modules of Python and of sfplus are left out."""

    def find_module(self, name: str, path: Any, parent: Any = None) -> Any:
        """Find a module; see `ModuleFinder`."""
        if path is None and (name in sys.builtin_module_names or name == "sfplus"):
            raise ImportError(name)
        return super().find_module(name, path, parent)
