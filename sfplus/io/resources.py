"""Locations of recipes and models: shipped with the code, or downloaded."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT_MODEL = "sphereface10-distilled"
HUB = "hf:"  # prefix of the name of a model on the Hugging Face Hub


def shipped_folder(name: str) -> Path:
    """Return the folder `pipelines` or `pretrained` of an installed package or of a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "_shipped" / name
    return installed if installed.is_dir() else package.parent / name


def user_folder() -> Path:
    """Return the folder of downloaded models and known faces: `$SFPLUS_HOME`, else `sfplus` in the user's cache."""
    if home := os.environ.get("SFPLUS_HOME"):
        return Path(home)
    import pooch  # start-up time: only needed without SFPLUS_HOME

    return Path(pooch.os_cache("sfplus"))


def shipped_models() -> list[str]:
    """Return the names of the shipped models."""
    return sorted(path.parent.name for path in shipped_folder("pretrained").glob("*/config.json"))
