"""Where recipes and models lie: those that sfplus ships beside its code, and the models that it has fetched."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from sfplus.errors import UsageError
from sfplus.weights import MODEL

DEFAULT_MODEL = "sphereface10-small"
HUB = "hf:"


def shipped(folder: str) -> Path:
    """The folder `pipelines` or `pretrained`, of an installed package or of a checkout."""
    package = Path(__file__).parent
    installed = package / "_shipped" / folder
    return installed if installed.is_dir() else package.parent / folder


def models_home() -> Path:
    """Where fetched models go: the environment's SFPLUS_HOME, else `sfplus` in the user's cache folder."""
    if home := os.environ.get("SFPLUS_HOME"):
        return Path(home)
    import pooch

    return Path(pooch.os_cache("sfplus"))


def find_model(name: str) -> Path:
    """The folder of a model: a path, the name of one that sfplus ships or has fetched, or `hf:owner/name[@revision]`.

    Raises:
        UsageError: there is none; says what to do.
        WeightsError: the hub does not have it, or not as a model of sfplus.
    """
    if name.startswith(HUB):
        from sfplus.weights.hub import hub_folder

        return hub_folder(name)
    path = Path(name)
    if path.is_dir():
        return path
    if path.is_file():
        raise UsageError("is a file", where=name, remedy=f"convert it: sfplus convert {path.name} FOLDER")
    if len(path.parts) == 1:
        for folder in (shipped("pretrained") / name, models_home() / name):
            if (folder / MODEL).is_file():
                return folder
    raise UsageError(f"there is no model '{name}'", where="model", remedy=_remedy(name))


def _remedy(name: str) -> str:
    from sfplus.weights.zoo import zoo

    if name in zoo():
        return f"get it first: sfplus models fetch {name}"
    near = difflib.get_close_matches(name, zoo(), n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else "give a folder, hf:owner/name, or a name of: sfplus models list"


def shipped_models() -> list[str]:
    """The names of the models that sfplus ships."""
    return sorted(path.parent.name for path in shipped("pretrained").glob("*/config.json"))
