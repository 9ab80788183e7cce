"""The plan of a recipe: its steps in order, and the artefacts and files that they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.code_input import CodeInput
from sfplus.artifacts.context import RunContext, is_first
from sfplus.artifacts.detector_input import DetectorInput
from sfplus.artifacts.inputs import InputFile, ModelInput, PackFolder, StageInput
from sfplus.artifacts.pair_inputs import BinCrops, PairList
from sfplus.datasets.identities import describe_people
from sfplus.datasets.known_sets import describe_missing
from sfplus.datasets.records import PeopleRule
from sfplus.errors import DatasetError, UsageError
from sfplus.image_tasks.image_set import ImageSet
from sfplus.images import has_photos, list_left_out, list_photos
from sfplus.io.loggers import get_logger
from sfplus.io.resources import HUB
from sfplus.recipes.recipe import Recipe
from sfplus.recipes.steps import (
    InputReference,
    Step,
    StepOutput,
    UserBin,
    UserCode,
    UserDetector,
    UserFile,
    UserImages,
    UserModel,
    UserPack,
    UserPairs,
    UserPhotos,
)
from sfplus.weights.detector_models import detector_file
from sfplus.weights.zoo import zoo

_log = get_logger(__name__)


def plan(recipe: Recipe, text: str = "", command: str = "") -> list[Step]:
    """Return the steps of a recipe, each after the steps that it takes its inputs from.

    Args:
        recipe: The validated recipe.
        text: Its YAML, which the report shows.
        command: The command that runs it, which the report shows.
    """
    request = recipe.plan_request(text, command)
    steps: dict[str, Step] = {}
    for key in request.keys.values():
        for step in key.plan(request):
            steps.setdefault(step.name, step)
    return list(steps.values())


def steps_until(steps: Sequence[Step], stage: str, *more: str) -> list[Step]:
    """Return the steps of a stage, of more stages of the recipe if there are any, and everything that they need.

    Raises:
        UsageError: If the recipe has no such stage.
    """
    needed = {step.name for step in steps if step.stage.name in (stage, *more)}
    if not any(step.stage.name == stage for step in steps):
        names = ", ".join(dict.fromkeys(step.stage.name for step in steps))
        raise UsageError(f"this recipe has no stage '{stage}'", where="--until", remedy=f"its stages: {names}")
    for step in reversed(steps):
        if step.name in needed:
            needed |= {reference.step for reference in step.inputs.values() if isinstance(reference, StepOutput)}
    return [step for step in steps if step.name in needed]


def check_inputs(steps: Sequence[Step], workspace: Path, context: RunContext | None = None) -> None:
    """Check that the user's inputs exist before anything is started, not hours later.

    Args:
        steps: The steps of a plan.
        workspace: The folder of cache and runs.
        context: The run, for which the number of people to train on is logged, and what is left out of folders of
            photos, with a warning where folders may be misunderstood; None: nothing is logged.

    Raises:
        UsageError: If a path or model does not exist, photos to train on are in no person's folder, or a folder of
            photos contains the cache.
        PairsError: If a pair list is malformed, or names photos that its folder does not hold.
    """
    references = [reference for step in steps for reference in step.inputs.values()]
    if missing := _find_missing(references):
        raise _missing_error(missing)
    _check_references(references, workspace, context)


def check_available_inputs(steps: Sequence[Step], workspace: Path, context: RunContext) -> str:
    """Check those of the user's inputs that exist, as `check_inputs` does; nothing is fetched.

    Returns:
        What is missing, in one line; "" if nothing is.

    Raises:
        SfplusError: As `check_inputs`.
    """
    references = [reference for step in steps for reference in step.inputs.values()]
    missing = _find_missing(references)
    notes = [str(_missing_error(missing))] if missing else []
    available = []
    for reference in references:
        if isinstance(reference, UserModel | UserDetector):
            notes += [f"get it first: sfplus models fetch {reference.name}"] * _is_unfetched(reference)
            if reference.name.startswith(HUB) or _is_unfetched(reference):
                continue
        photos = reference.photos if isinstance(reference, UserPairs) else None
        if not _find_missing([reference]) and (photos is None or photos.exists()):
            available.append(reference)
    _check_references(available, workspace, context)
    return "; ".join(dict.fromkeys(notes))


def _is_unfetched(model: UserModel | UserDetector) -> bool:
    """Return whether a model or detector is one of the zoo that is not on this machine."""
    try:
        if isinstance(model, UserDetector):
            return not detector_file(model.name).is_file()
        return model.name in zoo() and not model.path.exists()
    except UsageError:
        return True


def _check_references(references: Sequence[InputReference], workspace: Path, context: RunContext | None) -> None:
    """Check inputs that exist; see `check_inputs`."""
    pair_lists: set[UserPairs] = set()
    folders: dict[Path, None] = {}
    people: dict[UserPhotos, None] = {}
    for reference in references:
        if isinstance(reference, UserModel):
            _ = reference.content  # raises if the model cannot be used
            reference.check_code(reference.key)
        elif isinstance(reference, UserDetector):
            _ = DetectorInput(reference.name).content  # likewise
        elif not isinstance(reference, StepOutput | UserImages | UserCode):
            path = _path(reference)
            if isinstance(reference, UserPairs):
                pair_lists.add(reference)
            elif path.resolve() in (workspace / "cache").resolve().parents:
                raise UsageError("contains the cache", where=path, remedy="give the folder of photos inside it")
            if isinstance(reference, UserPhotos):
                if reference.root not in folders:
                    _check_photos(path)
                folders[reference.root] = None
                if reference.people:
                    people[reference] = None
    if context and is_first():
        for root in folders:
            for text in filter(context.is_new, list_left_out(root).warnings(root)):
                _log.warning("%s", text)
    for folder in people:
        line, warning = describe_people_in(folder.root, folder.people or "path", folder.least)
        if context and context.is_new(str(folder.root), line):
            _log.info("%s: %s", folder.root, line)
            if warning:
                _log.warning("%s: %s", folder.root, warning)
    for pairs in pair_lists:
        pair_list = _pair_list(pairs)
        _ = pair_list.listed, pair_list.match


def describe_people_in(root: Path, rule: PeopleRule, least: int = 1) -> tuple[str, str]:
    """Describe the people of a folder of photos to train on, or to identify; see `describe_people`.

    Raises:
        UsageError: If it holds no photos, not in folders of people, or too few of each person.
    """
    try:
        return describe_people(list_photos(root), root, rule, least)
    except DatasetError as error:
        raise UsageError(error.reason, where=error.where, remedy=error.remedy) from None


def _find_missing(references: Sequence[InputReference]) -> dict[Path, str]:
    """Return the paths that do not exist, each with a remedy."""
    missing: dict[Path, str] = {}
    for reference in references:
        if isinstance(reference, UserImages):
            data = reference.settings
            if data.is_code and (data.download or not data.root):
                continue
            downloadable = data.name not in ("files", "folder") and not data.is_code
            if not (data.folder.exists() or (downloadable and data.download)):
                missing[data.folder] = f"say where it is: data.root=FOLDER{', or data.download=true' * downloadable}"
        elif not isinstance(reference, StepOutput | UserCode | UserDetector) and (path := _missing(reference)):
            missing[path] = "check the path"
    return missing


def _missing_error(missing: Mapping[Path, str]) -> UsageError:
    """Return the error that names all missing paths in one line, with what is known about them."""
    first, *further = missing
    reason = "does not exist" + (f", nor {'does' if len(further) == 1 else 'do'} {_join(further)}" if further else "")
    remedies = list(dict.fromkeys(missing.values()))
    return UsageError(reason, where=first, remedy="; ".join(filter(None, [*remedies, describe_missing(missing)])))


def _check_photos(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError("is not a folder", where=folder, remedy="give a folder of photos")
    if not has_photos(folder):
        raise UsageError("there is no photo in this folder", where=folder, remedy="check the path")


def _missing(reference: UserModel | UserPhotos | UserBin | UserPack | UserPairs | UserFile) -> Path | None:
    """Return the path of an input if there is nothing; of models, only those that are given as the path of a file."""
    if isinstance(reference, UserModel):
        path = Path(reference.name)
        is_file = len(path.parts) > 1 and path.suffix and not reference.name.startswith(HUB)
        return path if is_file and not path.exists() else None
    return None if (path := _path(reference)).exists() else path


def _join(paths: Sequence[Path]) -> str:
    names = [str(path) for path in paths]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _path(reference: UserPhotos | UserBin | UserPack | UserPairs | UserFile) -> Path:
    return reference.root if isinstance(reference, UserPhotos | UserPack) else reference.path


def resolve_inputs(
    step: Step,
    artefacts: Mapping[str, Artefact],
    context: RunContext,
    folders: dict[UserPhotos, StageInput] | None = None,
) -> dict[str, StageInput]:
    """Return the inputs of a step.

    Args:
        step: The step.
        artefacts: The artefacts of earlier steps by name.
        context: The run, whose workspace remembers the digests of photos.
        folders: The folders of photos of earlier steps, which are not listed again; those of this step are added.
    """
    folders = {} if folders is None else folders
    inputs = {}
    for name, reference in step.inputs.items():
        if not isinstance(reference, UserPhotos):
            inputs[name] = _resolve(reference, artefacts, context)
            continue
        if reference not in folders:
            folders[reference] = _resolve(reference, artefacts, context)
        inputs[name] = folders[reference]
    return inputs


def _resolve(reference: InputReference, artefacts: Mapping[str, Artefact], context: RunContext) -> StageInput:
    match reference:
        case UserPhotos(root, pairs, _):
            return context.photo_folder(root, _pair_list(pairs).photos if pairs else None)
        case UserBin(path):
            return BinCrops(path, context.workspace / "cache" / "unpacked")
        case UserPack(root):
            return PackFolder(root)
        case UserPairs():
            return _pair_list(reference)
        case UserFile(path):
            return InputFile(path)
        case UserCode(path):
            return CodeInput(path)
        case UserImages(settings):
            return ImageSet(settings, context)
        case UserDetector(name):
            return DetectorInput(name)
        case UserModel():
            return ModelInput(reference)
        case StepOutput(step, part):
            artefact = artefacts[step]
            if not part:
                return artefact
            path = artefact.folder / part
            return context.photo_folder(path) if path.is_dir() else InputFile(path)


def _pair_list(reference: UserPairs) -> PairList:
    return PairList(reference.path, reference.photos, reference.folds, reference.may_miss)
