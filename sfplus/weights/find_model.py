"""The model that a name means, wherever `--model` is taken."""

from __future__ import annotations

import difflib
from pathlib import Path

from sfplus.errors import UsageError
from sfplus.io.resources import HUB, models_home, shipped_folder
from sfplus.weights import MODEL


def find_model(name: str) -> Path:
    """The folder of a model: a path, the name of one that sfplus ships or has fetched, or `hf:owner/name[@revision]`.

    Raises:
        UsageError: there is none; says what to do.
        WeightsError: the hub does not have it, or not as a model of sfplus.
    """
    if name.startswith(HUB):
        from sfplus.weights.hub import hub_folder  # torch is slow to import

        return hub_folder(name)
    path = Path(name)
    if path.is_dir():
        return path
    if path.is_file():
        raise UsageError("is a file", where=name, remedy=f"convert it: sfplus convert {path.name} FOLDER")
    if len(path.parts) == 1:
        for folder in (shipped_folder("pretrained") / name, models_home() / name):
            if (folder / MODEL).is_file():
                return folder
    raise UsageError(f"there is no model '{name}'", where="model", remedy=_remedy(name))


def _remedy(name: str) -> str:
    from sfplus.weights.zoo import zoo

    if name in zoo():
        return f"get it first: sfplus models fetch {name}"
    near = difflib.get_close_matches(name, zoo(), n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else "give a folder, hf:owner/name, or a name of: sfplus models list"
