"""Stage `sample`: drawn faces for training and for verification, of disjoint people, with a pair list as LFW has it."""

from __future__ import annotations

from typing import Any

from skimage import data

from sfplus.artifacts.layout import PAIRS, TRAIN_PHOTOS, VERIFY_PHOTOS
from sfplus.artifacts.stage import Job
from sfplus.datasets.pairs import draw_pairs, write_pairs
from sfplus.datasets.portraits import write_portraits
from sfplus.images import encode_image, list_photos
from sfplus.io.files import write_atomically
from sfplus.recipes.settings.sample import SampleSettings


def build(job: Job[SampleSettings]) -> dict[str, Any]:
    """Draw the photos of both sets and the pairs of the second."""
    settings, progress = job.settings, job.context.progress
    train_people = settings.people - settings.verify_people
    progress.start(settings.people * settings.photos, "photos")
    sets = ((TRAIN_PHOTOS, 0, train_people), (VERIFY_PHOTOS, train_people, settings.verify_people))
    for folder, first_person, people in sets:
        write_portraits(
            job.folder / folder,
            people,
            settings.photos,
            settings.seed,
            first_person=first_person,
            on_photo=progress.advance,
        )
    names = list_photos(job.folder / VERIFY_PHOTOS)
    photograph = job.folder / VERIFY_PHOTOS / "astronaut" / "astronaut_0001.jpg"  # a real face, in no pair
    photograph.parent.mkdir(exist_ok=True)
    write_atomically(photograph, encode_image(data.astronaut(), ".jpg", 95))  # type: ignore[no-untyped-call]
    drawn = [name for name in names if not name.startswith("astronaut/")]
    pairs = draw_pairs(drawn, settings.folds, settings.pairs_per_fold, settings.seed)
    write_pairs(job.folder / PAIRS, pairs)
    return {"people": settings.people, "photos": settings.people * settings.photos, "pairs": len(pairs.left)}
