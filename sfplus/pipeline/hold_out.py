"""A verdict on the user's own photos: people of the training photos are held out, and pairs of them verified."""

from __future__ import annotations

from pathlib import Path

from sfplus.datasets.formats.pack import is_pack
from sfplus.datasets.pairs import write_plain
from sfplus.datasets.pairs.held_out import count_folds, draw_as_many, hold_out_people, photos_by_person
from sfplus.errors import UsageError
from sfplus.images import list_photos
from sfplus.io.console import Console, quantity
from sfplus.io.files import digest_json
from sfplus.pipeline.plan import describe_training_people
from sfplus.recipes.recipe import Recipe


def hold_out(recipe: Recipe, workspace: Path, console: Console | None = None) -> Recipe:
    """Return a recipe that verifies on held-out people of its training photos, if it names no photos to verify on.

    The list of pairs is written to the cache. The people follow from the photos and `verify.seed` alone.

    Args:
        recipe: The recipe.
        workspace: The folder of cache and runs.
        console: Where it is said who is held out.

    Returns:
        The recipe with `verify.photos`, `verify.pairs` and the people in `exclude`, without drawn faces; the same
        recipe if nobody is held out.

    Raises:
        UsageError: If the folder does not exist or has too few people, or photos are in no person's folder.
    """
    training, verify = recipe.train or recipe.finetune, recipe.verify
    if not (training and verify and training.photos and training.classifies) or verify.photos or verify.pairs:
        return recipe
    root = training.photos
    if is_pack(root) and recipe.sample:  # the crops of a pack are not photos: drawn faces are verified
        return recipe
    if is_pack(root) or not root.is_dir():
        reason = "is a pack, from which nobody is held out" if is_pack(root) else "is not a folder of photos"
        remedy = "give verify.photos and verify.pairs" if is_pack(root) else "check the path"
        raise UsageError(reason, where=root, remedy=remedy)
    describe_training_people(root, training.people)
    by_person = photos_by_person(list_photos(root), training.people)
    people = hold_out_people(by_person, verify.seed, root, training.exclude)
    chosen = [photo for person in people for photo in by_person[person]]
    folds = count_folds(len(people))
    pairs = draw_as_many(chosen, folds, 0, verify.seed, root, training.people)
    digest = digest_json([pairs.left, pairs.right, pairs.same.tolist(), pairs.fold.tolist()])
    name = root.resolve().name or "photos"
    file = workspace / "cache" / "held-out" / digest[:20] / f"held-out people of {name}.csv"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_plain(file, pairs)
    if console:
        others = quantity(len(set(by_person) - {*people, *training.exclude}), "person", "people")
        held_out = f"{quantity(len(people), 'person', 'people')} with {quantity(len(chosen), 'photo')}"
        drawn = f"{quantity(len(pairs), 'pair')} in {quantity(folds, 'fold')}"
        console.print_once(
            f"{root}: {held_out} are held out for the verdict, chosen by seed {verify.seed}, for {drawn}; "
            f"{others} to train on"
        )
    key = "train" if recipe.train else "finetune"
    update = {
        "sample": None,
        "verify": verify.model_copy(update={"photos": root, "pairs": file}),
        key: training.model_copy(update={"exclude": (*training.exclude, *people)}),
    }
    if recipe.train and recipe.finetune and recipe.finetune.exclude:
        exclude = (*recipe.finetune.exclude, *people)
        update["finetune"] = recipe.finetune.model_copy(update={"exclude": exclude})
    return recipe.model_copy(update=update)
