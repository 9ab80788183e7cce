"""Resolution of the names that `--model` accepts."""

from __future__ import annotations

from pathlib import Path

from sfplus.errors import UsageError, suggest
from sfplus.io.resources import HUB, models_home, shipped_folder
from sfplus.weights import MODEL
from sfplus.weights.zoo import zoo


def find_model(name: str) -> Path:
    """Return the folder of a model.

    Args:
        name: a path, the name of a shipped or fetched model, or `hf:owner/name[@revision]`.

    Raises:
        UsageError: If there is no such model.
        WeightsError: If the Hugging Face Hub does not have it, or not as a model of sfplus.
    """
    if name.startswith(HUB):
        from sfplus.weights.hub import hub_folder  # start-up time: imports torch

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
    if name in zoo():
        return f"get it first: sfplus models fetch {name}"
    return suggest(name, zoo()) or "give a folder, hf:owner/name, or a name of: sfplus models list"
