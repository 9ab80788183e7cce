"""The zoo: published models, their addresses, and their conversion to folders that `--model` accepts.

Fetched models are kept in `user_folder()`. `pins.json` in this folder contains the SHA-256 of files for which none is
published, so that a different file under the same name is refused from then on, and a digest of each fetched model.
"""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from sfplus.errors import UsageError, WeightsError, suggest
from sfplus.io.download import download, is_page
from sfplus.io.files import digest_json, file_digest, write_atomically, write_json
from sfplus.io.json_files import read_json
from sfplus.io.locks import file_lock
from sfplus.io.resources import shipped_folder, user_folder
from sfplus.weights import MODEL, ONNX_MODEL, WEIGHTS_FILES
from sfplus.weights.zoo_entry import UNKNOWN, Entry

ZOO, PINS, LOCKS = "zoo.yaml", "pins.json", ".locks"
_FETCHED = "fetched"  # among the pins of a model: the digest of its folder
_NAME = r"^[a-z0-9][a-z0-9-]*$"
_7Z_MAGIC = b"7z\xbc\xaf\x27\x1c"


def load_zoo(path: Path | None = None) -> dict[str, Entry]:
    """Load the entries of a zoo file by name.

    Args:
        path: the file; default: the shipped `pretrained/zoo.yaml`.

    Raises:
        WeightsError: If the file is invalid; the message names the entry.
    """
    path = path or shipped_folder("pretrained") / ZOO
    adapter = TypeAdapter(dict[Annotated[str, Field(pattern=_NAME)], Entry])
    try:
        return adapter.validate_python(yaml.safe_load(path.read_text("utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        raise WeightsError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", where=path) from None
    except (OSError, yaml.YAMLError) as error:
        raise WeightsError(f"cannot be read ({error})", where=path, remedy="install sfplus again") from None


@cache
def zoo() -> dict[str, Entry]:
    """Return the entries of the shipped zoo by name."""
    return load_zoo()


def find_entry(name: str) -> Entry:
    """Return the entry of a name.

    Raises:
        UsageError: If the zoo has no such entry; the remedy suggests the most similar name.
    """
    if name not in zoo():
        remedy = suggest(name, zoo()) or "see: sfplus models list"
        raise UsageError(f"the zoo has no model '{name}'", where="model", remedy=remedy)
    return zoo()[name]


def status(name: str) -> str:
    """Return whether a model is `shipped`, `fetched`, to `download`, to get `by hand` or `not released`."""
    entry = find_entry(name)
    if (shipped_folder("pretrained") / name / MODEL).is_file():
        return "shipped"
    if any((user_folder() / name / file).is_file() for file in WEIGHTS_FILES):
        return "fetched"
    return "not released" if not entry.files else "download" if entry.url else "by hand"


def checksums(name: str) -> dict[str, str]:
    """Return the SHA-256 of each file of an entry: as published, else as pinned on this machine, else `UNKNOWN`."""
    files, pins = find_entry(name).files, _load_pins().get(name, {})
    return files | {file: pin for file, pin in pins.items() if files.get(file) == UNKNOWN}


def describe(name: str) -> str:
    """Return a description of an entry, with one fact per line."""
    entry = find_entry(name)
    rows = {
        "what": entry.what, "status": status(name), "network": entry.network, "layout": entry.layout,
        "crops": entry.crops, "LFW": entry.accuracy, "runs": ", ".join(f"{run:.2f}" for run in entry.runs),
        "verified": entry.verified or "not by this project", "data": entry.data, "licence": entry.licence,
        "source": entry.source,
    }  # fmt: skip
    lines = [f"{key:<9} {value}" for key, value in rows.items() if value]
    lines += [f"{'address':<9} {address}" for address in (entry.url, *entry.pages) if address]
    return "\n".join([*lines, *(f"{'file':<9} {file}, SHA-256 {sha256}" for file, sha256 in checksums(name).items())])


def verify(path: Path, name: str = "") -> str:
    """Check a file against the zoo; an intact file of an entry without SHA-256 is pinned.

    Args:
        path: the file, or the folder of a model.
        name: name of the entry; default: found by the SHA-256, then by the file name.

    Returns:
        A description of the file, in one line.

    Raises:
        WeightsError: If the file is a web page, has a different SHA-256 or is not an intact model.
        UsageError: If there is no such file, or the zoo has no such entry, or the entry is not clear from the file.
    """
    path = path / MODEL if path.is_dir() else path
    if not path.is_file():
        raise UsageError("there is no such file", where=path, remedy="check the path")
    if is_page(path):
        raise WeightsError("is a web page, not the file", where=path, remedy="open it in a browser and download again")
    actual = file_digest(path)
    for entry in [name] if name else zoo():
        for file, sha256 in checksums(entry).items():
            if sha256 == actual:
                return f"{path}: {entry}, {file}, SHA-256 {actual}, as it should be"
    name = name or _entry_with_file(path, actual)
    file = _match_file(path, name)
    if (expected := checksums(name)[file]) != UNKNOWN:
        reason = f"its SHA-256 is {actual}, that of {name} is {expected}"
        raise WeightsError(reason, where=path, remedy="do not use it; get the file again")
    _check_intact(path, zoo()[name])
    _pin(name, file, actual)
    return f"{path}: an intact file, accepted as {name}; SHA-256 {actual} is pinned in {user_folder() / PINS}"


def fetch(name: str, path: Path | None = None) -> tuple[str, bool]:
    """Prepare a model for `--model`, or a detector for `--detector`, from its address or from a downloaded file.

    A fetched model that was damaged since is fetched again.

    Returns:
        A message, which says how to continue if the file has to be downloaded or unpacked by hand; and whether the
        model is ready.

    Raises:
        UsageError: If the zoo has no such model, or its weights are not released.
        WeightsError: If the download fails, or `verify` refuses the file.
    """
    entry, current = find_entry(name), status(name)
    ready = f"use it with {entry.option} {name}"
    damaged = f"{user_folder() / name} is damaged\n" if current == "fetched" and _is_damaged(name) else ""
    if current in ("shipped", "fetched") and not damaged:
        return f"{name} is {current}: {ready}", True
    if current == "not released":
        raise UsageError("its weights are not released", where=name, remedy=f"see: sfplus models info {name}")
    if path is None and not entry.url:
        pages = "".join(f"  {page}\n" for page in entry.pages)
        by_hand = f"{name} can only be downloaded by hand, from one of\n{pages}then: {_fetch_command(name)}"
        return damaged + by_hand, False
    verdict = verify(path, name) if path else ""
    (user_folder() / LOCKS).mkdir(parents=True, exist_ok=True)
    with file_lock(user_folder() / LOCKS / f"{name}.lock"):
        if status(name) == "fetched" and not _is_damaged(name):  # by another process meanwhile
            return f"{name} is fetched: {ready}", True
        if path is None:
            path = _download(name, entry)
            verdict = verify(path, name)
        if path.suffix.lower() == ".7z":
            return f"{damaged}{verdict}\nunpack it, for example with 7z, then: {_fetch_command(name)}", False
        _install(name, entry, path)
    replaced = damaged.replace("is damaged", "was damaged and is replaced")
    return f"{replaced}{verdict}\n{ready}", True


def _is_damaged(name: str) -> bool:
    """Return whether a fetched model is not as it was fetched; without its digest, whether it cannot be read."""
    folder, entry = user_folder() / name, zoo()[name]
    if entry.is_detector:
        file = folder / ONNX_MODEL
        return not file.is_file() or file_digest(file) not in entry.files.values()
    pin = _load_pins().get(name, {}).get(_FETCHED)
    if pin:
        return _digest_folder(folder) != pin
    from sfplus.weights.loading import read_model  # start-up time: imports torch

    try:
        read_model(folder)
    except WeightsError:
        return True
    return False


def _digest_folder(folder: Path) -> str:
    return digest_json({file.name: file_digest(file) for file in sorted(folder.iterdir()) if file.is_file()})


def _download(name: str, entry: Entry) -> Path:
    path = user_folder() / "downloads" / list(entry.files)[-1]
    sha256 = checksums(name)[path.name]
    remedy = f"without a network: {_fetch_command(name)}"
    download(entry.url, path, "" if sha256 == UNKNOWN else sha256, WeightsError, remedy)
    return path


def _fetch_command(name: str) -> str:
    return f"sfplus models fetch {name} --from FILE"


def _entry_with_file(path: Path, sha256: str) -> str:
    """Return the name of the entry that has a file of this name."""
    for name, entry in zoo().items():
        if path.name in entry.files and entry.layout != "sfplus":  # all folders of sfplus have a model.safetensors
            return name
    remedy = "name the model that it should be: --name NAME (see: sfplus models list)"
    raise UsageError(f"no model of the zoo has its SHA-256, {sha256}", where=path, remedy=remedy)


def _match_file(path: Path, name: str) -> str:
    """Return the file of an entry that corresponds to a path, by its name, else by its suffix."""
    files = list(zoo()[name].files)
    matches = [file for file in files if Path(file).suffix == path.suffix.lower()]
    if path.name in files or matches:
        return path.name if path.name in files else matches[0]
    suffixes = " or ".join(Path(file).suffix for file in files)
    raise UsageError(f"is not a {suffixes} file", where=path, remedy=_fetch_command(name))


def _check_intact(path: Path, entry: Entry) -> None:
    """Check that a file, before it is pinned, is a model of this network or an archive."""
    from sfplus.weights.loading import read_model  # start-up time: `sfplus models list` does not need torch

    if path.suffix.lower() != ".7z":
        read_model(path, entry.network, input=entry.input)
        return
    with path.open("rb") as file:
        if file.read(len(_7Z_MAGIC)) != _7Z_MAGIC:
            raise WeightsError("is not a 7z archive", where=path, remedy="get the file again")


def _install(name: str, entry: Entry, path: Path) -> None:
    """Write the folder of a model, in place of a damaged one, and remember its digest."""
    folder = user_folder() / name
    if entry.is_detector:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ONNX_MODEL, path.read_bytes())
        return
    _convert(entry, path, folder)
    _pin(name, _FETCHED, _digest_folder(folder))


def _convert(entry: Entry, path: Path, folder: Path) -> None:
    from sfplus.weights.convert import read_with_digest, write_folder  # start-up time: imports torch

    model = read_with_digest(path, entry.network, input=entry.input)
    model.config.update({
        "licence": entry.licence, "data": entry.data,
        "published": {"lfw": entry.lfw, "runs": entry.runs, "protocol": entry.protocol, "source": entry.source},
    })  # fmt: skip
    if folder.exists():  # damaged
        shutil.rmtree(folder)
    write_folder(model, folder)


def _load_pins() -> dict[str, dict[str, str]]:
    path = user_folder() / PINS
    if not path.exists():
        return {}
    remedy = "delete it; files are then pinned again"
    return read_json(path, dict[str, dict[str, str]], remedy=remedy, error=WeightsError)


def _pin(name: str, file: str, sha256: str) -> None:
    (user_folder() / LOCKS).mkdir(parents=True, exist_ok=True)
    with file_lock(user_folder() / LOCKS / "pins.lock"):
        pins = _load_pins()
        pins.setdefault(name, {})[file] = sha256
        write_json(user_folder() / PINS, pins, indent=1, sort_keys=True)
