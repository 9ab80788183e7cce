"""Where the files lie that sfplus ships beside its code: recipes and small models."""

from __future__ import annotations

from pathlib import Path

from sfplus.errors import UsageError

DEFAULT_MODEL = "sphereface10-small"


def shipped(folder: str) -> Path:
    """The folder `pipelines` or `pretrained`, of an installed package or of a checkout."""
    package = Path(__file__).parent
    installed = package / "_shipped" / folder
    return installed if installed.is_dir() else package.parent / folder


def find_model(name: str) -> Path:
    """The folder of a model, given by a path or by the name of one that sfplus ships.

    Raises:
        UsageError: there is neither.
    """
    for folder in (Path(name), shipped("pretrained") / name):
        if folder.is_dir():
            return folder
    have = ", ".join(shipped_models())
    raise UsageError(f"there is no model '{name}'", where="model", remedy=f"give a folder, or one of: {have}")


def shipped_models() -> list[str]:
    """The names of the models that sfplus ships."""
    return sorted(path.parent.name for path in shipped("pretrained").glob("*/config.json"))
