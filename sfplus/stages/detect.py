"""Stage `detect`: photos to faces, batch by batch, shared among processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from sfplus.artifacts.inputs import PhotoFolder, check_name
from sfplus.artifacts.layout import FACES, PHOTOS
from sfplus.artifacts.stage import Job
from sfplus.artifacts.work_sharing import SharedWork
from sfplus.detection import Detector, choose, choose_all
from sfplus.errors import PhotoError
from sfplus.images import Pixels, is_transient, read_photo
from sfplus.io.console import quantity
from sfplus.io.prefetch import batch_by_size, prefetch_map
from sfplus.io.tables import FAILURES, NO_FACE, write_json_lines, write_parquet
from sfplus.recipes.settings.detect import DetectSettings

BATCH = 32  # photos in a part
_PIXELS = 1 << 21  # of photos that are detected together
NamedPhoto = tuple[str, Pixels | PhotoError]


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
        detector = Detector(**settings.model_dump(exclude={"choose"}), device=job.context.device)
        for items in work.rounds():
            decoded = prefetch_map(partial(_read_item, folder.root), items)
            for part, photos in groupby(decoded, itemgetter(0)):
                rows = list(_detect_batch((photo for _, photo in photos), detector, settings))
                counts.update(_count(rows))
                work.finish(part, rows, _note(counts))
    return work


def _read_item(root: Path, item: tuple[int, str]) -> tuple[int, NamedPhoto]:
    part, name = item
    try:
        check_name(name, root / name)
        return part, (name, read_photo(root / name))
    except PhotoError as error:
        if is_transient(error):
            raise  # a fault of the disk, not of the photo: the stage stops and can be resumed
        return part, (name, error)


def _detect_batch(
    batch: Iterator[NamedPhoto], detector: Detector, settings: DetectSettings
) -> Iterator[dict[str, Any]]:
    """Detect a few photos at a time, so that large photos are never all in memory."""
    for group in batch_by_size(batch, _count_pixels, _PIXELS, BATCH):
        yield from _detect(group, detector, settings)


def _count_pixels(photo: NamedPhoto) -> int:
    return 0 if isinstance(photo[1], PhotoError) else photo[1].size // 3


def _detect(group: list[NamedPhoto], detector: Detector, settings: DetectSettings) -> Iterator[dict[str, Any]]:
    detections = iter(detector.detect([photo for _, photo in group if not isinstance(photo, PhotoError)]))
    for name, photo in group:
        if isinstance(photo, PhotoError):
            yield {"photo": name, "reason": photo.reason, "remedy": photo.remedy}
            continue
        faces, (height, width) = next(detections), photo.shape[:2]
        if settings.choose == "all":
            chosen = choose_all(faces)
        else:
            choice = choose(faces, height, width, settings.choose)
            chosen = [choice] if choice else []
        yield {
            "photo": name, "height": height, "width": width,
            "chosen": {str(choice.index): choice.reason for choice in chosen},
            "faces": [
                {"box": box.tolist(), "score": float(score), "landmarks": points.ravel().tolist()}
                for box, score, points in zip(faces.boxes, faces.scores, faces.landmarks, strict=True)
            ],
        }  # fmt: skip


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
        "box": [np.array(face["box"], np.float32) for _, _, face in faces],
        "landmarks": [np.array(face["landmarks"], np.float32) for _, _, face in faces],
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
