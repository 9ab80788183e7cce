"""JSON that anybody may have changed, read as values of a declared type."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import PlainValidator, TypeAdapter, ValidationError

from sfplus.errors import ArtefactError, SfplusError, first_line
from sfplus.io.files import file_size
from sfplus.io.limits import check_limit

Value = TypeVar("Value")


def is_relative(name: str) -> bool:
    """Return whether a text is a POSIX path below a folder."""
    return bool(name) and "\0" not in name and not name.startswith("/") and ".." not in PurePosixPath(name).parts


def _check_relative(value: object) -> str:
    if not (isinstance(value, str) and is_relative(value)):
        raise ValueError("is not the name of a file below the folder")
    return value


# A POSIX path below a folder. pydantic's own type refuses the names of files that are not UTF-8.
RelativeName = Annotated[str, PlainValidator(_check_relative)]


def read_json(
    path: Path,
    kind: type[Value],
    *,
    remedy: str,
    error: type[SfplusError] = ArtefactError,
    limit: str = "json_bytes",
) -> Value:
    """Read a JSON file as a value of a type.

    Args:
        path: the file.
        kind: the type: a pydantic model, a dataclass, a typed dict, or a type such as `dict[str, int]`. Values are
            converted as pydantic does ("5" to 5), unless the type is declared as strict.
        remedy: what to do about a damaged file.
        error: the class of the exception.
        limit: the name of the limit on its size.

    Raises:
        SfplusError: If the file is missing, too large, not JSON or of another type.
    """
    return parse_json(
        read_bytes(path, remedy=remedy, error=error, limit=limit), kind, where=path, remedy=remedy, error=error
    )


def read_bytes(
    path: Path, *, remedy: str, error: type[SfplusError] = ArtefactError, limit: str = "json_bytes"
) -> bytes:
    """Read a file as `read_json` does, without looking at its content.

    Raises:
        SfplusError: If the file is missing or too large.
    """
    try:
        check_limit(limit, file_size(path), path, error=error)
        return path.read_bytes()
    except (OSError, ValueError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) else fault
        raise error(f"cannot be read: {reason}", where=path, remedy=remedy) from fault


def parse_json(
    data: bytes | str, kind: type[Value], *, where: str | Path, remedy: str, error: type[SfplusError] = ArtefactError
) -> Value:
    """Parse JSON as a value of a type, like `read_json`.

    Args:
        data: the text.
        kind: the type.
        where: the file, or the part of a file, that is named in messages.
        remedy: what to do about damaged text.
        error: the class of the exception.

    Raises:
        SfplusError: If the text is not JSON or of another type.
    """
    try:
        value: Any = json.loads(data)
        return _adapter(kind).validate_python(value)  # type: ignore[arg-type, no-any-return]
    except ValidationError as fault:
        first = fault.errors(include_url=False, include_context=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))[:100]
        reason = f"{key}: {first['msg']}" if key else first["msg"]
        raise error(f"is damaged ({reason})", where=where, remedy=remedy) from fault
    except RecursionError as fault:
        raise error("is damaged (it is nested too deeply)", where=where, remedy=remedy) from fault
    except ValueError as fault:  # not JSON, not UTF-8, or an integer of thousands of digits
        raise error(f"is damaged ({first_line(fault)})", where=where, remedy=remedy) from fault


@lru_cache
def _adapter(kind: Any) -> TypeAdapter[Any]:  # which is slow to make, and JSON lines need it for each line
    return TypeAdapter(kind)
