"""Stage `sample`: drawn faces for training and for verification, disjoint people, with an LFW-style list of pairs."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sfplus.artifacts.cache import Job, Stage

TRAIN, VERIFY, PAIRS = "photos/train", "photos/verify", "pairs.txt"


class SampleSettings(BaseModel):
    """Drawn faces in place of photos."""

    model_config = ConfigDict(extra="forbid")

    people: int = Field(60, ge=4, description="people drawn in all")
    photos: int = Field(10, ge=2, description="photos of each person")
    verify_people: int = Field(20, ge=2, description="how many of the people are kept for verification")
    folds: int = Field(10, ge=2, description="folds of the list of pairs")
    pairs_per_fold: int = Field(20, ge=1, description="same pairs in a fold, and as many different ones")
    seed: int = Field(0, ge=0, description="another seed draws other people")

    @model_validator(mode="after")
    def _people_to_train_on(self) -> Self:
        if self.people - self.verify_people < 2:
            raise ValueError("verify_people leaves fewer than two people to train on")
        return self


def _build(job: Job) -> dict[str, Any]:
    from skimage import data

    from sfplus.datasets.pairs import draw_pairs, write_pairs
    from sfplus.datasets.portraits import write_portraits
    from sfplus.images import encode_image, list_photos
    from sfplus.io.files import write_atomically

    settings: SampleSettings = job.settings
    train_people = settings.people - settings.verify_people
    step = job.run.bar
    step.start(settings.people * settings.photos, "photos")
    for folder, first, people in ((TRAIN, 0, train_people), (VERIFY, train_people, settings.verify_people)):
        write_portraits(
            job.folder / folder, people, settings.photos, settings.seed, first_person=first, on_photo=step.advance
        )
    names = list_photos(job.folder / VERIFY)
    real = job.folder / VERIFY / "astronaut" / "astronaut_0001.jpg"  # one photograph of a real face, in no pair
    real.parent.mkdir(exist_ok=True)
    write_atomically(real, encode_image(data.astronaut(), ".jpg", 95))  # type: ignore[no-untyped-call]
    pairs = draw_pairs(
        [n for n in names if not n.startswith("astronaut/")], settings.folds, settings.pairs_per_fold, settings.seed
    )
    write_pairs(job.folder / PAIRS, pairs)
    return {"people": settings.people, "photos": settings.people * settings.photos, "pairs": len(pairs.left)}


STAGE = Stage("sample", 1, _build)
