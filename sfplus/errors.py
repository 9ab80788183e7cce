"""The exceptions of sfplus, whose messages are one line: the file or setting, the reason and the remedy."""

from __future__ import annotations

import difflib
import os
import re
import reprlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

# Control characters, what changes the direction of text or is invisible, line separators, and what is not Unicode; but
# not the joiners U+200C and U+200D, which names in several scripts need.
_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_LONGEST = 1000  # characters of a reason, a file or a remedy


def one_line(text: object) -> str:
    """Return text without line breaks or control characters, so that a hostile file name cannot forge a log line."""
    return _CONTROLS.sub(_escape, str(text))


def escape_controls(text: str) -> str:
    """Return text with its control characters escaped, but with its line breaks and tabs."""
    return _CONTROLS.sub(lambda match: match[0] if match[0] in "\n\t" else _escape(match), text)


def _escape(match: re.Match[str]) -> str:
    return repr(match[0])[1:-1]


def cut(text: str, most: int = _LONGEST) -> str:
    """Return text of at most `most` characters: the middle of a longer one is replaced by three dots."""
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[: most - 3 - half]}...{text[len(text) - half :]}"


class _ShortRepr(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if abs(x) < 10**40 else "an integer of more than 40 digits"


def short_repr(value: object) -> str:
    """Return a value that somebody gave for a message: at most 200 characters, however large or nested it is."""
    short = _ShortRepr()
    short.maxstring = short.maxother = 80
    short.maxlevel = 3
    return cut(short.repr(value), 200)


def first_line(error: BaseException) -> str:
    """Return the first line of the message of an error of another library, at most 200 characters, for a reason."""
    return one_line(str(error).strip().partition("\n")[0])[:200]


def warn_user(text: str) -> None:
    """Warn about something that the user should know, in one line that names the file concerned."""
    warnings.warn(one_line(text), SfplusWarning, stacklevel=3)


def suggest(name: str, choices: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the choice most similar to an unknown name, or "" if none is similar.

    Callers give all choices where there is no suggestion: `suggest(name, TABLE) or f"use one of {', '.join(TABLE)}"`.
    """
    matches = difflib.get_close_matches(name[:100], list(choices), n=1, cutoff=0.5)
    return f"did you mean '{matches[0]}'?" if matches else ""


class SfplusError(Exception):
    """A failure that the user can act on; the command line exits with `exit_code`.

    Args:
        reason: what is wrong, without a full stop.
        where: the file, folder or setting concerned.
        remedy: what to do about it, without a full stop.
    """

    exit_code = 1

    def __init__(self, reason: str, *, where: str | os.PathLike[str] = "", remedy: str = "") -> None:
        self.reason = cut(one_line(reason))
        self.where = cut(one_line(os.fspath(where)))
        self.remedy = cut(one_line(remedy))
        super().__init__(self.reason, self.where, self.remedy)

    def __reduce__(self) -> tuple[Any, ...]:  # else no other process could send it back
        rebuild = partial(type(self), where=self.where, remedy=self.remedy)
        return rebuild, (self.reason,), self.__dict__

    def __str__(self) -> str:
        text = f"{self.where}: {self.reason}" if self.where else self.reason
        return f"{text}; {self.remedy}" if self.remedy else text


class UsageError(SfplusError):
    """The command, recipe or argument is wrong; nothing was started."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe file is invalid; `where` is `file:line`."""


class DeviceError(UsageError):
    """The requested device does not exist on this machine."""


class PhotoError(SfplusError):
    """One photo cannot be used; batch commands record it and continue."""


class PairsError(SfplusError):
    """A list of pairs is malformed or names missing photos; `where` is `file:line`."""


class DatasetError(SfplusError):
    """A folder of photos does not contain what the stage needs."""


class NoUsablePhotoError(DatasetError):
    """None of the photos can be used.

    Args:
        reason: as of `SfplusError`, like `where` and `remedy`.
        failures: a row for each photo with `photo`, `stage`, `reason` and `remedy`.
    """

    def __init__(
        self,
        reason: str,
        *,
        where: str | os.PathLike[str] = "",
        remedy: str = "",
        failures: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(reason, where=where, remedy=remedy)
        self.failures = list(failures)


class WeightsError(SfplusError):
    """A weights file is unreadable, unsafe or does not fit the network."""


class TrainingError(SfplusError):
    """Training cannot continue: the loss is not a number, or a checkpoint does not belong to this run."""


class ArtefactError(SfplusError):
    """An artefact of a stage is missing or damaged."""


class SfplusWarning(UserWarning):
    """Something that the user should know, in one line; the command line shows no other warnings."""


class DependencyError(SfplusError):
    """A package that sfplus needs is missing or broken."""


@contextmanager
def explain_damage(
    where: str | os.PathLike[str], *, remedy: str, error: type[SfplusError] = SfplusError
) -> Iterator[None]:
    """Turn any exception of a parser into one line that says that the file is damaged.

    The parsers of other libraries raise a dozen different classes on damaged files. Only the call of such a parser
    belongs in the block, because a mistake in our own code would be reported as a damaged file.

    Args:
        where: the file.
        remedy: what to do about it.
        error: the class of the exception.

    Raises:
        SfplusError: If the block raises an exception that is not one already.
    """
    try:
        yield
    except SfplusError:
        raise
    except MemoryError as fault:
        raise error("does not fit into memory", where=where, remedy=remedy) from fault
    except Exception as fault:
        if isinstance(fault, OSError) and fault.strerror:
            raise error(f"cannot be read: {fault.strerror}", where=where, remedy=remedy) from fault
        reason = first_line(fault) or type(fault).__name__
        raise error(f"is damaged ({reason})", where=where, remedy=remedy) from fault
