"""The zoo: models that exist, where they are, and how they become folders that `--model` takes.

What is fetched lies in the folder that `models_home` names; `pins.json` there remembers the SHA-256 of files for which
nobody has published one, so that another file under the same name is refused from then on.
"""

from __future__ import annotations

import difflib
import json
import secrets
import shutil
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from sfplus.errors import UsageError, WeightsError
from sfplus.io.download import download, is_page
from sfplus.io.files import file_digest, write_atomically
from sfplus.io.resources import models_home, shipped_folder
from sfplus.weights import CONFIG, MODEL

ZOO, PINS = "zoo.yaml", "pins.json"
UNKNOWN = "unknown until first fetched"
_NAME = r"^[a-z0-9][a-z0-9-]*$"
_FILE = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class Entry(BaseModel):
    """One model of the zoo."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: str = Field(description="the model in one line")
    network: str = Field(description="as networks.create calls it")
    layout: Literal["sfplus", "caffe", "clcarwin"] = Field(description="whose names and format the weights have")
    files: dict[
        Annotated[str, Field(pattern=_FILE)], Annotated[str, Field(pattern=f"^([0-9a-f]{{64}}|{UNKNOWN})$")]
    ] = Field(description="SHA-256 by name; the weights come first; none where the weights are not released")
    url: str = Field(
        "", pattern="^(https://.+)?$", description="a file that a script can download, the last of `files`"
    )
    pages: tuple[Annotated[str, Field(pattern="^https?://")], ...] = Field((), description="where a person can get it")
    template: str = Field("sphereface-112x96", description="of the crops")
    licence: str
    data: str = Field(description="what it was trained on")
    protocol: Literal["sphereface", "clcarwin"] = Field("sphereface", description="of the accuracies")
    lfw: float = Field(gt=50, le=100, description="accuracy on LFW as published, percent")
    runs: tuple[float, ...] = Field(min_length=1, description="of all runs that were published, percent")
    source: str = Field(description="where this is from")

    @model_validator(mode="after")
    def _holds(self) -> Entry:
        if self.lfw not in self.runs:
            raise ValueError("lfw is none of runs")
        if self.url and self.url.rpartition("/")[2] not in list(self.files)[-1:]:
            raise ValueError("url does not end with the last of files")
        return self

    @property
    def accuracy(self) -> str:
        """What was published, with its protocol."""
        runs = f", mean of {len(self.runs)} runs {mean(self.runs):.2f} %" if len(self.runs) > 1 else ""
        return f"{self.lfw:.2f} %{runs} ({self.protocol} protocol)"


def load_zoo(path: Path | None = None) -> dict[str, Entry]:
    """The entries of `pretrained/zoo.yaml`, or of another such file, by name.

    Raises:
        WeightsError: the file is not right; the message names the entry.
    """
    path = path or shipped_folder("pretrained") / ZOO
    kind = TypeAdapter(dict[Annotated[str, Field(pattern=_NAME)], Entry])
    try:
        return kind.validate_python(yaml.safe_load(path.read_text("utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        raise WeightsError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", where=path) from None
    except (OSError, yaml.YAMLError) as error:
        raise WeightsError(f"cannot be read ({error})", where=path, remedy="install sfplus again") from None


@cache
def zoo() -> dict[str, Entry]:
    """The entries of the zoo that sfplus ships."""
    return load_zoo()


def find_entry(name: str) -> Entry:
    """The entry of this name.

    Raises:
        UsageError: there is none; names the nearest.
    """
    if name not in zoo():
        near = difflib.get_close_matches(name, zoo(), n=1, cutoff=0.4)
        remedy = f"did you mean '{near[0]}'?" if near else "see: sfplus models list"
        raise UsageError(f"the zoo has no model '{name}'", where="model", remedy=remedy)
    return zoo()[name]


def state(name: str) -> str:
    """How an entry stands on this machine: shipped, fetched, download, by hand or not released."""
    entry = find_entry(name)
    if (shipped_folder("pretrained") / name / MODEL).is_file():
        return "shipped"
    if (models_home() / name / MODEL).is_file():
        return "fetched"
    return "not released" if not entry.files else "download" if entry.url else "by hand"


def sha256s(name: str) -> dict[str, str]:
    """SHA-256 of the files of an entry, as published, else as pinned on this machine, else `UNKNOWN`."""
    files, pins = find_entry(name).files, _pins().get(name, {})
    return files | {file: pin for file, pin in pins.items() if files.get(file) == UNKNOWN}


def describe(name: str) -> str:
    """All that is known of an entry, a line each."""
    entry = find_entry(name)
    rows = {
        "what": entry.what, "here": state(name), "network": entry.network, "layout": entry.layout,
        "crops": entry.template, "LFW": entry.accuracy, "runs": ", ".join(f"{run:.2f}" for run in entry.runs),
        "data": entry.data, "licence": entry.licence, "source": entry.source,
    }  # fmt: skip
    lines = [f"{key:<9} {value}" for key, value in rows.items()]
    lines += [f"{'address':<9} {address}" for address in (entry.url, *entry.pages) if address]
    return "\n".join([*lines, *(f"{'file':<9} {file}, SHA-256 {sha256}" for file, sha256 in sha256s(name).items())])


def verify(path: Path, name: str = "") -> str:
    """Check a file against the zoo; a sound file of an entry without SHA-256 is pinned.

    Args:
        path: the file, or a folder with a model.
        name: the entry; without it the SHA-256 decides, then the file's name.

    Returns:
        What it is, in one line.

    Raises:
        WeightsError: there is no such file, it is a web page, has another SHA-256 or is no sound model.
        UsageError: the zoo has no such entry, or cannot say which one is meant.
    """
    path = path / MODEL if path.is_dir() else path
    if not path.is_file():
        raise WeightsError("there is no such file", where=path, remedy="check the path")
    if is_page(path):
        raise WeightsError("is a web page, not the file", where=path, remedy="open it in a browser and download again")
    found = file_digest(path)
    for entry in [name] if name else zoo():
        for file, sha256 in sha256s(entry).items():
            if sha256 == found:
                return f"{path}: {entry}, {file}, SHA-256 {found}, as it should be"
    name = name or _named_like(path, found)
    file = _meant(path, name)
    if (known := sha256s(name)[file]) != UNKNOWN:
        reason = f"its SHA-256 is {found}, that of {name} is {known}"
        raise WeightsError(reason, where=path, remedy="do not use it; get the file again")
    _check(path, zoo()[name].network)
    _pin(name, file, found)
    return f"{path}: a sound file, taken as {name}; SHA-256 {found} is pinned in {models_home() / PINS}"


def fetch(name: str, path: Path | None = None) -> tuple[str, bool]:
    """Get a model ready for `--model NAME`: from its address, or from a file that a person has got by hand.

    Returns:
        What was done, or, where only a person can get the file or open its archive, how to go on; and whether the model
        is ready.

    Raises:
        UsageError: the zoo has no such model, or its weights are not released.
        WeightsError: see `verify`; or the download fails.
    """
    entry, stands = find_entry(name), state(name)
    if stands in ("shipped", "fetched"):
        return f"{name} is {stands}: use it with --model {name}", True
    if stands == "not released":
        raise UsageError("its weights are not released", where=name, remedy=f"see: sfplus models info {name}")
    if path is None and entry.url:
        path = models_home() / "downloads" / list(entry.files)[-1]
        sha256 = sha256s(name)[path.name]
        download(
            entry.url, path, "" if sha256 == UNKNOWN else sha256, WeightsError, "without a network: " + _go_on(name)
        )
    if path is None:
        pages = "".join(f"  {page}\n" for page in entry.pages)
        return f"{name} can only be got by hand, from one of\n{pages}then: {_go_on(name)}", False
    said = verify(path, name)
    if path.suffix.lower() == ".7z":
        return f"{said}\nunpack it, for example with 7z, then: {_go_on(name)}", False
    _install(name, entry, path)
    return f"{said}\nuse it with --model {name}", True


def _go_on(name: str) -> str:
    return f"sfplus models fetch {name} --from FILE"


def _named_like(path: Path, sha256: str) -> str:
    """The entry that has a file of this name."""
    for name, entry in zoo().items():
        if path.name in entry.files and entry.layout != "sfplus":  # every folder of ours has a model.safetensors
            return name
    remedy = "say which model it should be: --name NAME (see: sfplus models list)"
    raise UsageError(f"no model of the zoo has its SHA-256, {sha256}", where=path, remedy=remedy)


def _meant(path: Path, name: str) -> str:
    """Which file of an entry this one is: by its name, else by its suffix."""
    files = list(zoo()[name].files)
    same = [file for file in files if Path(file).suffix == path.suffix.lower()]
    if path.name in files or same:
        return path.name if path.name in files else same[0]
    raise UsageError(f"is no {' or '.join(Path(file).suffix for file in files)} file", where=path, remedy=_go_on(name))


def _check(path: Path, network: str) -> None:
    """A file that is pinned must be sound: a model of this network, or an archive."""
    from sfplus.weights.loading import read_source

    if path.suffix.lower() != ".7z":
        read_source(path, network)
        return
    with path.open("rb") as file:
        if file.read(6) != b"7z\xbc\xaf\x27\x1c":
            raise WeightsError("is no 7z archive", where=path, remedy="get the file again")


def _install(name: str, entry: Entry, path: Path) -> None:
    from sfplus.weights.convert import convert

    target = models_home() / name
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        convert(path, part, entry.network)
        config = json.loads((part / CONFIG).read_text("utf-8")) | {
            "template": entry.template, "licence": entry.licence, "data": entry.data,
            "published": {"lfw": entry.lfw, "runs": entry.runs, "protocol": entry.protocol, "source": entry.source},
        }  # fmt: skip
        write_atomically(part / CONFIG, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
        part.replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _pins() -> dict[str, dict[str, str]]:
    path = models_home() / PINS
    try:
        pins = TypeAdapter(dict[str, dict[str, str]]).validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError):
        raise WeightsError("is damaged", where=path, remedy="delete it; files are pinned anew as they come") from None
    return pins


def _pin(name: str, file: str, sha256: str) -> None:
    pins = _pins()
    pins.setdefault(name, {})[file] = sha256
    models_home().mkdir(parents=True, exist_ok=True)
    write_atomically(models_home() / PINS, json.dumps(pins, indent=1, sort_keys=True).encode())
