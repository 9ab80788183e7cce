"""The exceptions of sfplus: each message is one line that names the file or setting, the reason and the remedy."""

from __future__ import annotations

import os


def one_line(text: object) -> str:
    """Text without line breaks or control characters, so that a hostile file name cannot forge a log line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


class SfplusError(Exception):
    """Something failed for a reason that the user can act on; the command line exits with `exit_code`.

    Args:
        reason: what is wrong, without a final stop.
        where: the file, folder or setting that it is about.
        remedy: what to do about it, without a final stop.
    """

    exit_code = 1

    def __init__(self, reason: str, *, where: str | os.PathLike[str] = "", remedy: str = "") -> None:
        self.reason = one_line(reason)
        self.where = one_line(os.fspath(where))
        self.remedy = one_line(remedy)
        super().__init__(self.reason, self.where, self.remedy)

    def __str__(self) -> str:
        text = f"{self.where}: {self.reason}" if self.where else self.reason
        return f"{text}; {self.remedy}" if self.remedy else text


class UsageError(SfplusError):
    """The command, recipe or argument is wrong: nothing was started."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe file does not say what its stages need; `where` is `file:line`."""


class DeviceError(UsageError):
    """The device that was asked for is not on this machine."""


class PhotoError(SfplusError):
    """One photo cannot be used; batches record it and go on."""


class PairsError(SfplusError):
    """A pair list is malformed or names photos that are not there; `where` is `file:line`."""


class DatasetError(SfplusError):
    """A folder of photos does not hold what the stage needs."""


class WeightsError(SfplusError):
    """A file of weights is unreadable, unsafe or does not fit the network."""


class TrainingError(SfplusError):
    """Training cannot go on: the loss is not a number, or a checkpoint does not belong to this run."""


class ArtefactError(SfplusError):
    """A stage's artefact is missing or damaged."""


class DependencyError(SfplusError):
    """A package that sfplus needs is missing or broken."""
