"""Open photo collections of any storage format."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from sfplus.datasets.formats import collection_formats
from sfplus.datasets.records import PeopleRule, PhotoCollection
from sfplus.errors import UsageError


def open_collection(path: Path, split: str = "", people: PeopleRule = "path") -> PhotoCollection:
    """Open a collection of photos or crops; its storage format is recognised from the path and its contents.

    Args:
        path: a pack, a file of one of the formats, a folder with files of one of the formats (Parquet at any depth, as
            in Hugging Face data sets), or a folder per person.
        split: of shards named like `train-00000-of-00004.parquet`, open only those of this split.
        people: which of nested folders is the person, see `person_from_path`.

    Raises:
        UsageError: If the path does not exist or has none of the formats, or if there is a rule for people and the
            collection has no folders of people.
        DatasetError: If it is damaged.
    """
    if not path.exists():
        raise UsageError("does not exist", where=path, remedy="check the path")
    for collection_format in collection_formats():
        if collection := collection_format.open(path, split):
            return collection.with_people(people)
    supported = ", ".join(collection_format.accepts for collection_format in collection_formats())
    raise UsageError("is not a collection of photos of people", where=path, remedy=f"give {supported}")


def stat_digest(collection: PhotoCollection) -> str:
    """Return the SHA-256 of the path, and of the names, sizes and modification times of all files, of a collection.

    The path is resolved, so that relative paths and links give the same digest.
    """
    digest = hashlib.sha256(os.fsencode(collection.root.resolve()))
    for file in collection.files():
        try:
            status = file.stat()
        except OSError:  # a broken link: its record holds the error
            continue
        name = os.fsencode(os.path.relpath(file, collection.root))
        digest.update(b"%s\0%d\0%d\n" % (name, status.st_size, status.st_mtime_ns))
    return digest.hexdigest()
