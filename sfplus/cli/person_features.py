"""Mean features of the people of a collection or of a file of features."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np

from sfplus.alignment import find_template
from sfplus.datasets.collections import open_collection
from sfplus.datasets.formats.parquet import has_images
from sfplus.datasets.overlap import PersonMeans
from sfplus.datasets.records import PeopleRule, PhotoCollection, Record, person_from_path
from sfplus.embedder import Embedder
from sfplus.errors import DatasetError, PhotoError
from sfplus.images import Pixels, reserve_memory, shrink
from sfplus.io.console import Console, ProgressLine, quantity
from sfplus.io.loggers import get_logger
from sfplus.io.prefetch import Reserve, prefetch_batches
from sfplus.verification.features import FEATURE_SUFFIXES, Features, check_features, read_features
from sfplus.weights.find_model import ModelSource, crop_template

_log = get_logger(__name__)

_BATCH_SIZE = 128
_SIDE = 1024  # pixels of an image that is kept to be shown
_MEMORY = 200_000_000  # bytes of the images that are read in advance; a larger image, which is no crop, is read alone

Decoded = tuple[Record, Pixels | PhotoError]
Embedded = tuple[str, Features | PhotoError]


@dataclass(frozen=True, eq=False)
class People:
    """The people of a set.

    Attributes:
        names: all people.
        means: mean features of the people with a usable image.
        collection: the images; None if the set is a file of features.
    """

    names: list[str]
    means: PersonMeans
    collection: PhotoCollection | None


class PersonFeatures:
    """Computes mean features of people; the model is loaded once, and only if there are images.

    Args:
        model: the model, with its network and input if it does not describe them.
        device: device of the model.
        crops: the images are aligned crops; those of packs are in any case.
        images_per_person: number of images of each person to use, the first ones.
        people: which of nested folders is the person, see `person_from_path`.
    """

    def __init__(
        self, model: ModelSource, device: str, crops: bool, images_per_person: int, people: PeopleRule = "path"
    ) -> None:
        self._model, self._device = model, device
        self._crops, self._images_per_person, self._people = crops, images_per_person, people
        self._console = Console()
        self._widths: dict[Path, int] = {}
        self._embedder: Embedder | None = None

    def compute(self, label: str, path: Path) -> People:
        """Return the people of a set with their mean features.

        Args:
            label: name of the set in the progress line.
            path: a collection (see `open_collection`), or a file of features named `person/photo`.

        Raises:
            DatasetError: If the set cannot be read, or its features and those of an earlier set differ in length.
            PhotoError: If no image can be used.
        """
        means = PersonMeans()
        if holds_features(path):
            names, features = read_features(path)
            check_features(names, features, path)
            self._check_width(path, features.shape[1])
            for name, feature in zip(names, features, strict=True):
                means.add(person_from_path(name, people=self._people), feature.astype(np.float32))
            return People(means.people, means, None)
        collection = open_collection(path, people=self._people)
        for warning in collection.warnings:
            _log.warning("%s: %s", path, warning)
        if self._embedder is None:
            model = self._model
            self._embedder = Embedder(model.name, self._device, network=model.network, input=model.input)
        self._check_width(path, self._embedder.width)
        images: Counter[str] = Counter()
        failures = []
        with self._console.progress(label, resumed=False) as progress:
            progress.start(len(collection), "images")
            records = self._select(collection, images, progress)
            aligned = self._crops or collection.kind == "pack"
            for person, result in (_embed_crops if aligned else _embed_photos)(self._embedder, records):
                if isinstance(result, PhotoError):
                    failures.append(result)
                else:
                    means.add(person, result)
        if failures:
            _log.warning("%s: %s cannot be used; the first: %s", path, quantity(len(failures), "image"), failures[0])
        if missing := len(images) - len(means):
            count = quantity(missing, "person has", "people have")
            _log.warning("%s: %s no image that can be used; only names are compared", path, count)
        if not len(means):
            raise failures[0]
        return People(list(images), means, collection)

    def _check_width(self, path: Path, width: int) -> None:
        for earlier_path, earlier_width in self._widths.items():
            if earlier_width != width:
                reason = f"its features have {width} numbers, those of {earlier_path} {earlier_width}"
                raise DatasetError(reason, where=path, remedy="make both with the same model: sfplus embed, or --model")
        self._widths[path] = width

    def _select(self, collection: PhotoCollection, images: Counter[str], progress: ProgressLine) -> Iterator[Record]:
        """Yield the first images of each person, and count the images of each person."""
        for record in collection.records():
            progress.advance()
            if record.person:
                images[record.person] += 1
            if images[record.person] <= self._images_per_person:
                yield record


def holds_features(path: Path) -> bool:
    """Return True if a path is a file of features, and not a Parquet file of images."""
    return path.is_file() and path.suffix in FEATURE_SUFFIXES and not (path.suffix == ".parquet" and has_images(path))


def first_images(people: People, names: set[str]) -> dict[str, Pixels]:
    """Return the first readable image of each of some people, uint8 RGB (H, W, 3), scaled down to 1024 pixels."""
    images: dict[str, Pixels] = {}
    for record in people.collection.records() if people.collection else ():
        if record.person in names and record.person not in images:
            _, image = _decode(record)
            if not isinstance(image, PhotoError):
                images[record.person] = shrink(image, _SIDE) if max(image.shape) > _SIDE else image
        if len(images) == len(names):
            break
    return images


def _decode(record: Record, reserve: Reserve = lambda _: True) -> Decoded:
    try:
        return record, record.decode(reserve_memory(reserve))
    except PhotoError as error:
        return record, PhotoError(error.reason, where=record.name, remedy=error.remedy)


def _count_bytes(decoded: Decoded) -> int:
    return 0 if isinstance(decoded[1], PhotoError) else decoded[1].nbytes


def _embed_crops(embedder: Embedder, records: Iterator[Record]) -> Iterator[Embedded]:
    template = find_template(crop_template(embedder.config, embedder.folder))

    def checked() -> Iterator[tuple[str, Pixels | PhotoError]]:
        """Replace images of another size by errors at once, so that a batch keeps no large images."""
        decoded = prefetch_batches(_decode, records, size=_count_bytes, memory=_MEMORY)
        for record, crop in chain.from_iterable(decoded):
            if not isinstance(crop, PhotoError) and crop.shape[:2] != (template.height, template.width):
                reason = f"is {crop.shape[0]}x{crop.shape[1]}, not a crop of {template.name}"
                remedy = "make crops with sfplus align, or omit --crops"
                crop = PhotoError(reason, where=record.name, remedy=remedy)
            yield record.person, crop

    crops = checked()
    while batch := list(islice(crops, _BATCH_SIZE)):
        valid = []
        for person, crop in batch:
            if isinstance(crop, PhotoError):
                yield person, crop
            else:
                valid.append((person, crop))
        features = embedder.features(crop for _, crop in valid)
        yield from ((person, feature) for (person, _), feature in zip(valid, features, strict=True))


def _embed_photos(embedder: Embedder, records: Iterator[Record]) -> Iterator[Embedded]:
    pending: deque[Record] = deque()
    failures: list[Embedded] = []

    def photos() -> Iterator[Path | bytes | Pixels]:  # which the embedder decodes, as many as fit into memory
        for record in records:
            if isinstance(record.image, PhotoError):
                error = PhotoError(record.image.reason, where=record.name, remedy=record.image.remedy)
                failures.append((record.person, error))
                continue
            pending.append(record)
            yield record.image

    for result in embedder.stream(photos()):
        record = pending.popleft()
        if isinstance(result, PhotoError):
            result = PhotoError(result.reason, where=record.name, remedy=result.remedy)
        yield record.person, result
    yield from failures
