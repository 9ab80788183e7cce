"""Stage `detect`: photos to faces, batch by batch, which several processes may share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from sfplus.artifacts.cache import Job, Stage
from sfplus.artifacts.inputs import check_name
from sfplus.artifacts.work_sharing import Parts
from sfplus.errors import PhotoError
from sfplus.io.prefetch import batch_by_size, prefetch_map
from sfplus.io.tables import FAILURES, NO_FACE, write_json_lines, write_parquet

BATCH = 32  # photos of a part
_PIXELS = 1 << 21  # of photos that are detected together
Photo = NDArray[np.uint8]
Named = tuple[str, Photo | PhotoError]
FACES, PHOTOS = "faces.parquet", "photos.parquet"


class DetectSettings(BaseModel):
    """MTCNN, as the original called it (face_detect_demo.m)."""

    model_config = ConfigDict(extra="forbid")

    min_face: int = Field(20, ge=12, description="smallest face in pixels (face_detect_demo.m: minSize 20)")
    factor: float = Field(0.85, gt=0.1, lt=1, description="step of the pyramid (face_detect_demo.m: factor 0.85)")
    thresholds: tuple[float, float, float] = Field(
        (0.6, 0.7, 0.9), description="scores that P-, R- and O-Net must reach (face_detect_demo.m: [0.6 0.7 0.9])"
    )
    mirror_landmarks: bool = Field(True, description="average the landmarks with those of the mirrored face (MTCNNv1)")
    parity: Literal["none", "matlab"] = Field("none", description="matlab: the arithmetic of the original cascade")
    choose: Literal["centre", "largest", "confident", "all"] = Field(
        "centre", description="which of several faces is used (face_detect_demo.m: the one nearest the centre)"
    )


def _build(job: Job) -> dict[str, Any]:
    rows = _share(job).rows()
    _write(job.folder, rows)
    tally = _count(rows)
    job.run.bar.note = _note(tally)
    return tally


def _share(job: Job) -> Parts:
    """Detect until nothing is left, beside other processes that do the same."""
    from sfplus.detection import Detector

    settings: DetectSettings = job.settings
    folder = job.inputs["photos"]
    tally: Counter[str] = Counter()
    with Parts(job, folder.photos, BATCH, "photos") as parts:
        detector = Detector(**settings.model_dump(exclude={"choose"}), device=job.run.device)
        for items in parts.rounds():
            decoded = prefetch_map(partial(_named, folder.root), items)
            for part, photos in groupby(decoded, itemgetter(0)):
                rows = list(_rows((named for _, named in photos), detector, settings.choose))
                tally.update(_count(rows))
                parts.finish(part, rows, _note(tally))
    return parts


def _named(root: Path, item: tuple[int, str]) -> tuple[int, Named]:
    return item[0], (item[1], _read(root, item[1]))


def _read(root: Path, name: str) -> Photo | PhotoError:
    from sfplus.images import is_transient, read_photo

    try:
        check_name(name, root / name)
        return read_photo(root / name)
    except PhotoError as error:
        if is_transient(error):
            raise  # not the photo's fault: the stage stops, and goes on from here another time
        return error


def _rows(batch: Iterator[Named], detector: Any, rule: Any) -> Iterator[dict[str, Any]]:
    """Detect a few photos at a time, so that large ones are never all in memory."""
    for group in batch_by_size(batch, _pixels, _PIXELS, BATCH):
        yield from _detect(group, detector, rule)


def _pixels(named: Named) -> int:
    return 0 if isinstance(named[1], PhotoError) else named[1].size // 3


def _detect(group: list[Named], detector: Any, rule: Any) -> Iterator[dict[str, Any]]:
    from sfplus.detection import choose, choose_all

    found = iter(detector.detect([photo for _, photo in group if not isinstance(photo, PhotoError)]))
    for name, photo in group:
        if isinstance(photo, PhotoError):
            yield {"photo": name, "reason": photo.reason, "remedy": photo.remedy}
            continue
        faces, (height, width) = next(found), photo.shape[:2]
        one = None if rule == "all" else choose(faces, height, width, rule)
        chosen = choose_all(faces) if rule == "all" else [one] if one else []
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


def _note(tally: Mapping[str, int]) -> str:
    text = f"{tally['faces']} faces, {tally['missed']} missed"
    return f"{text}, {tally['unreadable']} unreadable" if tally["unreadable"] else text


def _write(folder: Path, rows: list[dict[str, Any]]) -> None:
    good = [row for row in rows if "reason" not in row]
    faces = [(row, index, face) for row in good for index, face in enumerate(row["faces"])]
    write_parquet(folder / PHOTOS, {
        **{key: [row[key] for row in good] for key in ("photo", "height", "width")},
        "choice": [next(iter(row["chosen"].values()), NO_FACE) if len(row["chosen"]) < 2 else "all" for row in good],
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
        {"photo": r["photo"], "stage": "detect", "reason": r["reason"], "remedy": r["remedy"]}
        for r in rows
        if "reason" in r
    ]
    missed = [
        {"photo": r["photo"], "stage": "detect", "reason": NO_FACE, "remedy": "look at the photo"}
        for r in good
        if not r["faces"]
    ]
    write_json_lines(folder / FAILURES, sorted(failures + missed, key=lambda row: row["photo"]))


STAGE = Stage("detect", 3, _build, _share)
