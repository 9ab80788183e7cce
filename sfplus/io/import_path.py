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
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, PydanticUserError, ValidationError, create_model

from sfplus.errors import UsageError, first_line, short_repr, suggest
from sfplus.io.files import digest_json, file_digest

_FORM = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_MAX_LENGTH = 100  # characters: the name of a network in config.json
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_PACKAGE = 5  # what ModuleFinder calls PKG_DIRECTORY
_NOT_FOUND = "run the command in the folder that holds the module, or set PYTHONPATH"
_digests_at_import: dict[Path, str] = {}
"""SHA-256 of the files of imported code, as they were just before the import: Python does not import them again."""


def is_import_path(name: str) -> bool:
    """Return whether a text has the form `package.module:name`; what it names may not exist."""
    return len(name) <= _MAX_LENGTH and bool(_FORM.fullmatch(name))


def import_object(path: str) -> Any:
    """Import what `package.module:name` names; this runs the module.

    The module is looked for on `sys.path` and then in the current folder, so that no file of that folder replaces an
    installed module. The current folder stays at the end of `sys.path`, for what the code imports when it is called.

    Raises:
        UsageError: If the module or the name does not exist, or the module fails while it is imported.
    """
    module, _, name = path.partition(":")
    _remember_sources(path)
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    try:
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
            names = [attribute for attribute in vars(target) if not attribute.startswith("_")]
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
        spec = _find_spec(top)
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
        UsageError: If there is no such module, it cannot be read, or a file was changed since this process imported
            it: what runs is then not what the digest would say.
    """
    sources = find_sources(path)
    try:
        digests = {name: file_digest(file) for name, file in sources.items()}
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror})", where=path, remedy="check the file") from None
    for name, file in sources.items():
        if name in sys.modules and _digests_at_import.get(file.absolute(), digests[name]) != digests[name]:
            raise UsageError("was changed since it was imported", where=file, remedy="run the command again")
    return digest_json([[name, digest] for name, digest in digests.items()])


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
        UsageError: If an option is unknown, supplied, missing or of a wrong type, or `target` does not take what is
            supplied.
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
    allowed = {name: parameter for name, parameter in named.items() if name not in supplied}
    for name in options:
        if name in supplied:
            raise UsageError(f"is given '{name}' by sfplus", where=where, remedy="leave it out of the options")
        if not (name in allowed or takes_any):
            remedy = suggest(name, allowed) or (
                f"its options: {', '.join(allowed)}" if allowed else "it has no options"
            )
            raise UsageError(f"has no option '{name}'", where=where, remedy=remedy)
    required = [name for name, parameter in allowed.items() if parameter.default is parameter.empty]
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


def _remember_sources(path: str) -> None:
    """Remember the files of code that is imported next, unless it is imported already and they are remembered."""
    is_imported = path.partition(":")[0] in sys.modules
    with contextlib.suppress(UsageError, OSError):  # the import itself says what is wrong
        for file in map(Path.absolute, find_sources(path).values()):
            if not (is_imported and file in _digests_at_import):
                _digests_at_import[file] = file_digest(file)


def _find_spec(top: str) -> ModuleSpec | None:
    """Find a module or package without a dot in its name, of which nothing is imported."""
    spec = importlib.util.find_spec(top)
    if spec is None or (spec.origin is None and spec.submodule_search_locations):
        return PathFinder.find_spec(top, [*sys.path, str(Path.cwd())]) or spec  # a folder is only the last resort
    return spec


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
    except Exception as error:  # of code that is no Python, and of ModuleFinder, which does not know all kinds of files
        reason = f"cannot be read ({type(error).__name__}: {first_line(error)})"
        raise UsageError(reason, where=path, remedy="mend this module") from None
    files = {name: getattr(found, "__file__", None) for name, found in finder.modules.items()}
    return {name: Path(file) for name, file in sorted(files.items()) if file}


class _FolderModules(ModuleFinder):
    """Finds what a module imports by reading its code: modules of Python and of sfplus are left out."""

    def find_module(self, name: str, path: Any, parent: Any = None) -> Any:
        """Find a module; see `ModuleFinder`, which does not know packages without `__init__.py`."""
        if path is None and (name in sys.builtin_module_names or name == "sfplus"):
            raise ImportError(name)
        spec = PathFinder.find_spec(name, self.path if path is None else path)
        if spec is not None and spec.origin is None and spec.submodule_search_locations:
            return None, next(iter(spec.submodule_search_locations)), ("", "", _PACKAGE)
        return super().find_module(name, path, parent)

    def load_package(self, fqname: str, pathname: str) -> Any:
        """Load a package; one without `__init__.py` has no code of its own."""
        if any(Path(pathname).glob("__init__.*")):
            return super().load_package(fqname, pathname)
        package: Any = self.add_module(fqname)
        package.__path__ = [pathname]
        return package
