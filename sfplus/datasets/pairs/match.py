"""Match the names of photos in a list of pairs with the photos of a folder, or with the names of features."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sfplus.datasets.pairs.plain import without_suffix
from sfplus.errors import PairsError
from sfplus.io.console import first_names, quantity

_NUMBERED = re.compile(r"(?P<person>.+)[_-](?P<number>\d{1,9})", re.ASCII)
_Rule = Callable[[str], object]


@dataclass(frozen=True)
class Match:
    """The photos of the names in a list.

    Attributes:
        photo: the photo of each name that has one.
        ambiguous: for each name that fits several photos, two of them.
        missing: the names without a photo, sorted.
    """

    photo: dict[str, str]
    ambiguous: dict[str, tuple[str, str]]
    missing: list[str]

    def check(self, photos: Sequence[str], where: object, listed: object, *, may_miss: bool = False) -> None:
        """Check that every name has one photo.

        Args:
            photos: the photos that were matched with, for the message.
            where: the list of pairs, for the message.
            listed: the folder or file with the photos, for the message.
            may_miss: accept names without a photo, unless no name has one.

        Raises:
            PairsError: If a name has no photo, or several.
        """
        count = f"of its {quantity(len(self.photo) + len(self.ambiguous) + len(self.missing), 'name')}"
        if self.ambiguous:
            name, (first, second) = next(iter(sorted(self.ambiguous.items())))
            reason = f"{len(self.ambiguous)} {count} could mean several photos: {name} is {first} or {second}"
            remedy = "write the names as in the folder, with the extension, or give the folder that holds one of them"
            raise PairsError(reason, where=str(where), remedy=remedy)
        if self.missing and not (may_miss and self.photo):
            examples, available = first_names(self.missing), first_names(_unused(photos, self.photo.values()))
            verb = "matches" if len(self.missing) == 1 else "match"
            reason = f"{len(self.missing)} {count} {verb} no photo of {listed}: {examples}"
            contents = f" (it also holds {available})" if self.photo and available else f" (it holds {available})"
            remedy = "give the folder or the file that the names belong to"
            if self.photo:
                remedy = "add these photos, or leave their pairs out with --undetected skip (verify.undetected=skip)"
            raise PairsError(reason + (contents if available else ""), where=str(where), remedy=remedy)


def match_photos(names: Iterable[str], photos: Sequence[str]) -> Match:
    """Find the photo of each name; one rule holds for the whole list, so that no name is guessed on its own.

    The rules, in this order; the first that gives every name one photo is used, or else the one with most photos:

    1. the same path;
    2. the path in a subfolder of the photos: `Ada/Ada_0001` is `photos/Ada/Ada_0001.jpg`, and `0001` is `Ada/0001.jpg`;
       leading folders that all names share are left out if that is necessary: `/home/me/lfw/Ada/Ada_0001`;
    3. the same person and number: `Ada/Ada_0001`, `Ada/1`, `Ada/0001` and `Ada_0001` are the same photo;
    4. the same file name, if no photo is in a folder.

    The extension is optional and its case does not count; a name with the extension of another photo is that photo
    only if there is no better one. Names are compared in Unicode's composed form.

    Args:
        names: names in a list of pairs, or any other names of photos.
        photos: paths of photos, relative to one folder, or the names of features.
    """
    listed = sorted(set(names))
    best: Match | None = None
    for rule, of_photos in _rules(listed, photos):
        match = _match(listed, photos, rule, of_photos)
        if not match.ambiguous and not match.missing:
            return match
        if best is None or len(match.photo) > len(best.photo) or (not best.photo and match.ambiguous):
            best = match
    assert best is not None  # there is always rule 1
    return best


def _rules(names: Sequence[str], photos: Sequence[str]) -> Iterable[tuple[_Rule, list[tuple[object, str]]]]:
    """Yield, for each rule, the key of a name, and the keys of photos with their photos."""
    depths = {name.count("/") + 1 for name in names}
    yield _stem, [(_stem(photo), photo) for photo in photos]
    for shared in range(len(_shared_folders(names)) + 1):
        rest = _Without(shared)
        ends = {depth - shared for depth in depths}
        below_any = not (shared and 1 in ends)  # a bare file name that was stripped of its folders is in no subfolder
        yield rest, [(key, photo) for photo in photos for key in _ends(_stem(photo), ends, below_any)]
    yield _person_and_number, [(_person_and_number(photo), photo) for photo in photos]
    of_all = _shared_folders(sorted(photos))
    below = [(photo.split("/", len(of_all))[-1], photo) for photo in photos]
    yield _person_and_number, [(_person_and_number(rest), photo) for rest, photo in below]
    if not any("/" in photo for photo in photos):
        yield _file_name, [(_stem(photo), photo) for photo in photos]


def _match(names: Sequence[str], photos: Sequence[str], rule: _Rule, keys: Iterable[tuple[object, str]]) -> Match:
    candidates: dict[object, list[str]] = defaultdict(list)
    for key, photo in keys:
        if key is not None:
            candidates[key].append(photo)
    photo_of: dict[str, str] = {}
    ambiguous: dict[str, tuple[str, str]] = {}
    missing = []
    for name in names:
        fitting = candidates.get(rule(name), [])
        if len(fitting) > 1:
            fitting = _with_suffix_of(name, fitting)
        if len(fitting) == 1:
            photo_of[name] = fitting[0]
        elif fitting:
            ambiguous[name] = (fitting[0], fitting[1])
        else:
            missing.append(name)
    return _separate(Match(photo_of, ambiguous, missing))


def _separate(match: Match) -> Match:
    """Count names as missing that differ by more than the extension and have one photo in common."""
    stems: dict[str, set[str]] = defaultdict(set)
    for name, photo in match.photo.items():
        stems[photo].add(_stem(name))
    shared = {photo for photo, names in stems.items() if len(names) > 1}
    if not shared:
        return match
    kept = {name: photo for name, photo in match.photo.items() if photo not in shared}
    return Match(kept, match.ambiguous, sorted([*match.missing, *(set(match.photo) - set(kept))]))


def _stem(name: str) -> str:
    return unicodedata.normalize("NFC", without_suffix(name))


def _with_suffix_of(name: str, photos: list[str]) -> list[str]:
    """Return those photos that have the extension of a name, or else this extension in another case, or else all."""
    suffix = name.removeprefix(without_suffix(name))
    exact = [photo for photo in photos if suffix and photo.endswith(suffix)]
    return exact or [photo for photo in photos if suffix and photo.lower().endswith(suffix.lower())] or photos


def _file_name(name: str) -> str:
    return _stem(name).rpartition("/")[2]


class _Without:
    """The key of a name without its first folders."""

    def __init__(self, folders: int) -> None:
        self.folders = folders

    def __call__(self, name: str) -> str:
        return _stem(name).split("/", self.folders)[-1]


def _ends(stem: str, depths: Iterable[int], below_any: bool) -> list[str]:
    """Return the last parts of a path, as many as each depth says; unless `below_any`, only the whole path."""
    parts = stem.split("/")
    return ["/".join(parts[-depth:]) for depth in depths if depth == len(parts) or (below_any and depth < len(parts))]


def _shared_folders(names: Sequence[str]) -> list[str]:
    """Return the first folders that all names have in common; names must be sorted."""
    if not names:
        return []
    first, last = (names[i].split("/")[:-1] for i in (0, -1))
    count = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:count]


def _person_and_number(name: str) -> tuple[str, int] | None:
    """Return the person and the number of a photo in the layouts of LFW, or None if the name has another layout."""
    folder, _, file = _stem(name).rpartition("/")
    person = folder.rpartition("/")[2]
    if person and file.isascii() and file.isdecimal() and len(file) < 10:
        return person, int(file)
    numbered = _NUMBERED.fullmatch(file)
    return (numbered["person"], int(numbered["number"])) if numbered and person in ("", numbered["person"]) else None


def _unused(photos: Iterable[str], used: Iterable[str]) -> list[str]:
    taken = set(used)
    return [photo for photo in photos if photo not in taken]
