"""Data sets that consist of several files (shards)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sfplus.errors import DatasetError


def list_shards(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that match a glob pattern, sorted, without hidden files and folders."""
    files = sorted(folder.glob(pattern))
    return [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


def select_split(folder: Path, shards: Sequence[Path], split: str) -> list[Path]:
    """Return the shards of one split; a shard named `train-00000-of-00004.tar` is of the split `train`.

    Args:
        folder: folder of the shards, for messages.
        shards: all shards.
        split: name of the split; may be empty if all shards are of the same split.

    Raises:
        DatasetError: If no shard is of this split, or the shards are of several splits and none is named.
    """
    split_of = {shard: shard.stem.rpartition("-of-")[0].rpartition("-")[0] for shard in shards}
    selected = [shard for shard, name in split_of.items() if not split or name == split]
    if len({split_of[shard] for shard in selected}) != 1:
        available = ", ".join(sorted({name or "(none)" for name in split_of.values()}))
        reason = f"its files are of the splits {available}" + (f", none of '{split}'" if split else "")
        raise DatasetError(reason, where=folder, remedy="name one with --split, or give one of the files")
    return selected
