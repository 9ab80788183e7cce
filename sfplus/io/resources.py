"""Where recipes and models lie: those that sfplus ships beside its code, and the models that it has fetched."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT_MODEL = "sphereface10-small"
HUB = "hf:"


def shipped(folder: str) -> Path:
    """The folder `pipelines` or `pretrained`, of an installed package or of a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "_shipped" / folder
    return installed if installed.is_dir() else package.parent / folder


def models_home() -> Path:
    """Where fetched models go: the environment's SFPLUS_HOME, else `sfplus` in the user's cache folder."""
    if home := os.environ.get("SFPLUS_HOME"):
        return Path(home)
    import pooch

    return Path(pooch.os_cache("sfplus"))


def shipped_models() -> list[str]:
    """The names of the models that sfplus ships."""
    return sorted(path.parent.name for path in shipped("pretrained").glob("*/config.json"))
