"""A verdict on the user's own photos: people of the training photos are held out, and pairs of them verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sfplus.artifacts.context import RunContext
from sfplus.datasets.formats.pack import is_pack
from sfplus.datasets.pairs import Pairs, without_suffix, write_plain
from sfplus.datasets.pairs.held_out import (
    count_folds,
    describe_ineligible,
    draw_as_many,
    hold_out_people,
    listable_photos,
    photos_by_person,
)
from sfplus.errors import DatasetError, UsageError
from sfplus.images import list_photos
from sfplus.io.console import quantity
from sfplus.io.files import digest_json, file_size
from sfplus.io.limits import check_limit
from sfplus.io.loggers import get_logger
from sfplus.pipeline.plan import describe_people_in
from sfplus.recipes.recipe import Recipe
from sfplus.weights import PEOPLE

_log = get_logger(__name__)


def hold_out(recipe: Recipe, workspace: Path, context: RunContext | None = None) -> Recipe:
    """Return a recipe that verifies on held-out people of its training photos, if it names no photos to verify on.

    The list of pairs is written to the cache. The people follow from the photos, `verify.seed` and the models that the
    recipe starts from or learns from: people whom these were trained on, by their `people.txt`, are not held out.

    Args:
        recipe: The recipe.
        workspace: The folder of cache and runs.
        context: The run, in which it is logged who is held out; None: nothing is logged.

    Returns:
        The recipe with `verify.photos`, `verify.pairs` and the people in `exclude`, without drawn faces; the same
        recipe if nobody is held out.

    Raises:
        UsageError: If the folder does not exist or has too few people, or photos are in no person's folder.
        DatasetError: If the `people.txt` of a model is too large.
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
    describe_people_in(root, training.people)
    by_person = photos_by_person(list_photos(root), training.people)
    names = listable_photos(photo for photos in by_person.values() for photo in photos)
    usable = {person: photos for person, photos in by_person.items() if person not in training.exclude}
    ineligible = _ineligible(recipe, usable, names)
    people = hold_out_people(usable, verify.seed, root, ineligible)
    chosen = [photo for person in people for photo in by_person[person] if photo in names]
    folds = count_folds(len(people))
    drawn = draw_as_many(chosen, folds, 0, verify.seed, root, training.people)
    listed = {without_suffix(photo): names[photo] for photo in chosen}
    left, right = (tuple(listed[name] for name in side) for side in (drawn.left, drawn.right))
    pairs = Pairs(left, right, drawn.same, drawn.fold)
    digest = digest_json([pairs.left, pairs.right, pairs.same.tolist(), pairs.fold.tolist()])
    name = root.resolve().name or "photos"
    file = workspace / "cache" / "held-out" / digest[:20] / f"held-out people of {name}.csv"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_plain(file, pairs)
    if context:
        remaining = quantity(len(usable) - len(people), "person", "people")
        held_out = f"{quantity(len(people), 'person', 'people')} with {quantity(len(chosen), 'photo')}"
        of_pairs = f"{quantity(len(pairs), 'pair')} in {quantity(folds, 'fold')}"
        if context.is_new(str(root), held_out):
            _log.info(
                "%s: %s are held out for the verdict, chosen by seed %d, for %s; %s to train on",
                root, held_out, verify.seed, of_pairs, remaining,
            )  # fmt: skip
            if text := describe_ineligible(ineligible):
                _log.info("%s: not eligible for the verdict, and trained on: %s", root, text)
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


def _ineligible(
    recipe: Recipe, by_person: Mapping[str, Sequence[str]], names: Mapping[str, str]
) -> dict[str, set[str]]:
    """Return the people who are trained on in any case, by the reason: a model knows them, or no list can name them."""
    training = [settings for settings in (recipe.train, recipe.finetune) if settings]
    models = [settings.teacher.model for settings in training if settings.teacher]
    models += [recipe.finetune.model] if recipe.finetune and recipe.finetune.model else []
    learned = {person for model in models for person in _people_of(Path(model))}
    trained_on = {
        person for person, photos in by_person.items() if learned and not learned.isdisjoint(_names_of(photos))
    }
    several = {person: photos for person, photos in by_person.items() if len(photos) > 1}
    unlisted = {person for person, photos in several.items() if sum(photo in names for photo in photos) < 2}
    of_models = " and ".join(dict.fromkeys(model for model in models if (Path(model) / PEOPLE).is_file()))
    unnamed = "with names, or names of photos, that a list of pairs cannot hold"
    return {f"in people.txt of {of_models}": trained_on, unnamed: unlisted - trained_on}


def _people_of(model: Path) -> list[str]:
    """Return the people whom a model was trained on; none if it is not a folder that names them."""
    file = model / PEOPLE
    if not file.is_file():
        return []
    check_limit("text_bytes", file_size(file), file, error=DatasetError)
    return [name for name in file.read_bytes().decode(errors="replace").split("\n") if name]


def _names_of(photos: Sequence[str]) -> set[str]:
    """Return the names that a person may have had in another training, by any rule for nested folders."""
    folders = {photo.rpartition("/")[0] for photo in photos}
    return folders | {folder.split("/")[part] for folder in folders for part in (0, -1)}
