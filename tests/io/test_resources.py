from pathlib import Path

import pytest

from sfplus.io.resources import DEFAULT_MODEL, shipped_folder, shipped_models, user_folder


def test_recipes_and_the_default_model_are_shipped() -> None:
    assert (shipped_folder("pipelines") / "demo.yaml").is_file()
    assert DEFAULT_MODEL in shipped_models()


def test_the_environment_chooses_the_folder_of_downloaded_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFPLUS_HOME", "/models")
    assert user_folder() == Path("/models")
    monkeypatch.delenv("SFPLUS_HOME")
    assert user_folder().name == "sfplus"
