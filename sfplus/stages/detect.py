"""Stage `detect`: photos to faces, batch by batch, shared among processes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from sfplus.artifacts.inputs import PhotoFolder, check_name, is_utf8
from sfplus.artifacts.layout import FACES, PHOTOS
from sfplus.artifacts.result_index import ResultIndex
from sfplus.artifacts.settings import deciding_settings
from sfplus.artifacts.stage import Job
from sfplus.artifacts.work_sharing import SharedWork
from sfplus.detection import Faces, choose, choose_all
from sfplus.detection.choose import ONLY_FACE
from sfplus.detection.interface import PhotoDetector, detect_each
from sfplus.detection.registry import MTCNN, create_detector
from sfplus.detection.sizes import Sizes
from sfplus.device import Device
from sfplus.errors import PhotoError
from sfplus.images import Pixels, is_transient, read_photo, reserve_memory
from sfplus.io.console import quantity
from sfplus.io.prefetch import Reserve, prefetch_batches
from sfplus.io.tables import FAILURES, NO_FACE, write_json_lines, write_parquet
from sfplus.recipes.settings.detect import DetectSettings

BATCH = 32  # photos in a part
Detected = dict[str, Any]  # height, width and faces of a photo
Row = dict[str, Any]  # the same with its name and the chosen faces, or with the reason why it cannot be read
Item = tuple[int, str, str | None]  # the part and the name of a photo, and what the index knows about it
NamedPhoto = tuple[str, Pixels | Detected | PhotoError]


def build(job: Job[DetectSettings]) -> dict[str, Any]:
    """Detect the faces of all photos and write them as tables."""
    rows = share(job).rows()
    _write(job.folder, rows)
    counts = _count(rows)
    job.context.progress.note = _note(counts)
    return counts


def share(job: Job[DetectSettings]) -> SharedWork:
    """Detect until no photo is left, in any number of processes at once."""
    settings = job.settings
    folder = job.input("photos", PhotoFolder)
    counts: Counter[str] = Counter()
    with SharedWork(job, folder.photos, BATCH, "photos") as work:
        index = _index(job)
        add_known = partial(_add_known, index, folder.digests)
        detector = _create_detector(settings, job.context.device)
        for items in work.rounds():
            batches = _decode(folder.root, add_known(items), detector.sizes)
            for part, detected in _whole_parts(batches, detector, settings, work.part_length):
                if new := [row for row, is_new in detected if is_new]:
                    folder.check_unchanged(folder.root / row["photo"] for row in new)
                    index.put((folder.digests[row["photo"]], json.dumps(_keep(row))) for row in new)
                rows = [row for row, _ in detected]
                counts.update(_count(rows))
                work.finish(part, rows, _note(counts))
    return work


def _index(job: Job[DetectSettings]) -> ResultIndex:
    """Return the detections of all photos that were ever detected with these settings, whatever face was chosen."""
    stage, settings = job.settings.stage, deciding_settings(job.settings)
    del settings["choose"]
    deciding: list[Any] = [stage.version, settings]
    if job.settings.detector != MTCNN:
        deciding.append(job.inputs["detector"].content)
    return job.context.result_index(stage.name, deciding, shared=True)


def _create_detector(settings: DetectSettings, device: Device) -> PhotoDetector:
    mtcnn = settings.model_dump(include={"factor", "thresholds", "mirror_landmarks", "parity"})
    return create_detector(
        settings.detector, device, turned=settings.turned, min_face=settings.min_face, min_score=settings.min_score,
        mtcnn=mtcnn,
    )  # fmt: skip


def _keep(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("height", "width", "faces")}


def _add_known(index: ResultIndex, digests: Mapping[str, str], items: Iterator[tuple[int, str]]) -> Iterator[Item]:
    """Add to each photo what the index knows about its content, part by part."""
    for part, group in groupby(items, itemgetter(0)):
        names = [name for _, name in group]
        results = index.get([digests[name] for name in names])
        yield from ((part, name, results.get(digests[name]) if is_utf8(name) else None) for name in names)


def _known_item(item: Item) -> tuple[int, NamedPhoto] | None:
    part, name, result = item
    return None if result is None else (part, (name, json.loads(result)))


def _read_item(root: Path, item: Item, reserve: Reserve) -> tuple[int, NamedPhoto]:
    part, name, _ = item
    try:
        check_name(name, root / name)
        return part, (name, read_photo(root / name, inspect=reserve_memory(reserve)))
    except PhotoError as error:
        if is_transient(error):
            raise  # a fault of the disk, not of the photo: the stage stops and can be resumed
        return part, (name, error)


def _decode(root: Path, items: Iterator[Item], sizes: Sizes) -> Iterator[list[tuple[int, NamedPhoto]]]:
    """Decode photos in threads, and yield as many as are detected together; memory is bounded by their pixels.

    A part is decoded in advance; more would take parts from other processes long before their turn.
    """
    return prefetch_batches(
        partial(_read_item, root), items, max(sizes.prefetched, BATCH), sizes.decoders, _known_item,
        size=_count_bytes, memory=sizes.memory, batch_size=3 * sizes.pixels, max_items=sizes.photos,
    )  # fmt: skip


def _whole_parts(
    batches: Iterator[list[tuple[int, NamedPhoto]]],
    detector: PhotoDetector,
    settings: DetectSettings,
    part_length: Callable[[int], int],
) -> Iterator[tuple[int, list[tuple[Row, bool]]]]:
    """Detect the photos of each batch together, and yield the rows of each part; True marks new ones."""
    parts: dict[int, list[tuple[Row, bool]]] = {}
    for group in batches:
        rows = list(_detect([photo for _, photo in group], detector, settings))
        for part, row in zip([part for part, _ in group], rows, strict=True):  # no variable keeps a photo
            parts.setdefault(part, []).append(row)
        yield from [(part, parts.pop(part)) for part in list(parts) if len(parts[part]) == part_length(part)]


def _count_bytes(item: tuple[int, NamedPhoto]) -> int:
    photo = item[1][1]
    return photo.nbytes if isinstance(photo, np.ndarray) else 0


def _detect(group: list[NamedPhoto], detector: PhotoDetector, settings: DetectSettings) -> Iterator[tuple[Row, bool]]:
    new = [photo for _, photo in group if isinstance(photo, np.ndarray)]
    detections = zip(new, detect_each(detector, new), strict=True)
    for name, photo in group:
        detected = _describe(*next(detections)) if isinstance(photo, np.ndarray) else photo
        if isinstance(detected, PhotoError):
            yield {"photo": name, "reason": detected.reason, "remedy": detected.remedy}, False
            continue
        yield {"photo": name, **detected, "chosen": _choose(detected, settings)}, isinstance(photo, np.ndarray)


def _describe(photo: Pixels, faces: Faces | PhotoError) -> Detected | PhotoError:
    if isinstance(faces, PhotoError):
        return faces
    return {
        "height": photo.shape[0], "width": photo.shape[1],
        "faces": [
            {"box": box.tolist(), "score": float(score), "landmarks": points.ravel().tolist()}
            for box, score, points in zip(faces.boxes, faces.scores, faces.landmarks, strict=True)
        ],
    }  # fmt: skip


def _choose(detected: Detected, settings: DetectSettings) -> dict[str, str]:
    """Return the reason for each chosen face, by its index as text."""
    if len(detected["faces"]) < 2:
        return {str(ONLY_FACE.index): ONLY_FACE.reason} if detected["faces"] else {}
    faces = Faces(
        np.array([face["box"] for face in detected["faces"]], np.float32).reshape(-1, 4),
        np.array([face["score"] for face in detected["faces"]], np.float32),
        np.array([face["landmarks"] for face in detected["faces"]], np.float32).reshape(-1, 5, 2),
    )
    if settings.choose == "all":
        return {str(choice.index): choice.reason for choice in choose_all(faces)}
    choice = choose(faces, detected["height"], detected["width"], settings.choose)
    return {str(choice.index): choice.reason} if choice else {}


def _count(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {
        "photos": len(rows),
        "faces": sum(len(row.get("faces", ())) for row in rows),
        "missed": sum(row.get("faces") == [] for row in rows),
        "unreadable": sum("reason" in row for row in rows),
    }


def _note(counts: Mapping[str, int]) -> str:
    text = f"{quantity(counts['faces'], 'face')}, {counts['missed']} missed"
    return f"{text}, {counts['unreadable']} unreadable" if counts["unreadable"] else text


def _write(folder: Path, rows: list[dict[str, Any]]) -> None:
    readable = [row for row in rows if "reason" not in row]
    faces = [(row, index, face) for row in readable for index, face in enumerate(row["faces"])]
    write_parquet(folder / PHOTOS, {
        **{key: [row[key] for row in readable] for key in ("photo", "height", "width")},
        "choice": [_describe_choice(row["chosen"]) for row in readable],
    })  # fmt: skip
    write_parquet(folder / FACES, {
        "photo": [row["photo"] for row, _, _ in faces],
        "face": [index for _, index, _ in faces],
        "chosen": [str(index) in row["chosen"] for row, index, _ in faces],
        "reason": [row["chosen"].get(str(index), "") for row, index, _ in faces],
        "score": np.array([face["score"] for _, _, face in faces], np.float32),
        "box": [*np.array([face["box"] for _, _, face in faces], np.float32)],
        "landmarks": [*np.array([face["landmarks"] for _, _, face in faces], np.float32)],
    })  # fmt: skip
    failures = [
        {"photo": row["photo"], "stage": "detect", "reason": row["reason"], "remedy": row["remedy"]}
        for row in rows
        if "reason" in row
    ]
    missed = [
        {"photo": row["photo"], "stage": "detect", "reason": NO_FACE, "remedy": "look at the photo"}
        for row in readable
        if not row["faces"]
    ]
    write_json_lines(folder / FAILURES, sorted(failures + missed, key=lambda row: row["photo"]))


def _describe_choice(chosen: Mapping[str, str]) -> str:
    return next(iter(chosen.values()), NO_FACE) if len(chosen) < 2 else "all"
